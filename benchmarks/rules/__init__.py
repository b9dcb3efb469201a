"""Small changes to the rules of the audit, each of which a step of the corpus has to notice."""

from ._mutant import Mutant as Mutant
from ._mutant import changed as changed
from ._mutant import mutated_copy as mutated_copy
from ._mutants import MUTANTS as MUTANTS
