"""`sweep`: a grid of settings, trained as ensembles."""

from ._sweep import Sweep as Sweep
from ._sweep import sweep as sweep
from ._table import SweepRow as SweepRow
from ._table import SweepTable as SweepTable
