"""What a rule looks at: the program, and what all rules know of it."""

import dataclasses
import functools

from ._figures import Figures
from ._keys._lineage import Lineage
from ._measure import measure
from ._program import Program
from ._states import State, states


@dataclasses.dataclass(frozen=True, eq=False)
class Audited:
    """A program, and what follows from it, worked out when a rule first asks.

    Attributes:
        program: What was traced and compiled.
    """

    program: Program

    @functools.cached_property
    def states(self) -> list[State]:
        """The arguments that come out again, updated."""
        return states(self.program)

    @functools.cached_property
    def figures(self) -> Figures:
        """What it costs."""
        return measure(self.program, self.states)

    @property
    def lineage(self) -> Lineage:
        """Its keys."""
        return self.program.lineage
