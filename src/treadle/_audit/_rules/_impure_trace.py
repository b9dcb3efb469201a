"""`impure-trace`: the function gives another program each time it is traced."""

from collections.abc import Iterator

from ..._units import counted
from .._audited import Audited
from .._finding import Finding
from .._purity._witness import Read, read_for
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
        told: dict[Place | None, tuple[str, Read | None]] = {}
        for path, what in program.differing:
            used = user_place(path)
            read = read_for(program.reads, used)
            told.setdefault(_line(used, read) or program.place, (what, read))
            if len(told) == _MOST:
                break
        for place, (what, read) in told.items():
            message = (
                f"two traces of the same function differ: {what}. {_source(place, read)} was read "
                f"while tracing, and every call uses it"
            )
            yield Finding(self.slug, "error", message, place, _FIX)

    def evidence(self, audited: Audited) -> str:
        """That both were the same."""
        return f"two traces gave the same {counted(audited.program.num_equations, 'equation')}"


_FIX = (
    "Draw with `jax.random` and a key that is an argument; hand clocks and counters in as "
    "arguments, or keep them in the state."
)


def _line(used: Place | None, read: Read | None) -> Place | None:
    """The line of the operation that differs; of what a function of its own reads, that one's.

    What comes out of the program is no operation; and those of the backward pass have the lines of
    the forward pass, not those of the rule that was run for them.
    """
    if read is not None and (used is None or (used.file, used.line) in read.way[:-1]):
        return read.place
    return used


def _source(place: Place | None, read: Read | None) -> str:
    """What was read, and where if that is another line."""
    if read is None:
        return "A number of the host's (NumPy's randomness, a clock, a counter)"
    name = f"`{read.what}`" if read.what else "A random number of the host's"
    return name if place in (None, read.place) else f"{name} (at {read.place.short})"
