"""Follows the axes of data, and what is drawn, by abstract interpretation of a traced program.

Every dimension of every argument that may be data has a number. It is followed through the program
to where a draw meets data element by element; each such meeting is noted, with the axes that lie
along the data there. Which of them are axes of a batch is decided later (see `_shared_draws`), also
by what else was seen to happen to them.
"""

from collections.abc import Sequence
from typing import Any

from . import _of_devices, _of_draws, _of_loops, _of_moves, _of_products
from ._spread import Spread
from ._walk import Rule, Walk

_RULES: dict[str, Rule] = {
    **_of_draws.RULES,
    **_of_moves.RULES,
    **_of_products.RULES,
    **_of_loops.RULES,
    **_of_devices.RULES,
}


class BatchAxes(Walk):
    """A walk through a whole program: what was seen there.

    Args:
        closed: The program.
        given: What is known of each array that goes in.
        sizes: The length of each axis of data.
    """

    def __init__(self, closed: Any, given: Sequence[Spread], sizes: dict[int, int]):
        super().__init__(_RULES, sizes)
        self.program(closed, given, ())
