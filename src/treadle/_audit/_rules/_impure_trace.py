"""`impure-trace`: the function gives another program each time it is traced."""

from collections.abc import Iterator

from .._audited import Audited
from .._comparison import differences
from .._finding import Finding
from .._source import Place, user_place
from ._base import Rule

_MOST = 5
"""Lines that are told of."""


class ImpureTrace(Rule):
    """Two traces differ: something in them comes from the host, and is part of the program."""

    slug = "impure-trace"
    line = "pure"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each line that differs."""
        program = audited.program
        told: dict[Place | None, str] = {}
        for path, what in differences(program.jaxpr, program.again):
            told.setdefault(user_place(path) or program.place, what)
            if len(told) == _MOST:
                break
        for place, what in told.items():
            message = (
                f"two traces of the same function differ: {what}. A number of the host's (NumPy's "
                f"randomness, a clock, a counter) was read while tracing, and every call uses it"
            )
            yield Finding(self.slug, "error", message, place, _FIX)

    def evidence(self, audited: Audited) -> str:
        """That both were the same."""
        return f"two traces gave the same {audited.program.num_equations:,} equations"


_FIX = (
    "Draw with `jax.random` and a key that is an argument; hand clocks and counters in as "
    "arguments, or keep them in the state."
)
