"""`unrolled-loop`: a loop of Python over data, of which the program holds every turn."""

from collections.abc import Iterator

from .._audited import Audited
from .._finding import Finding
from .._unrolling._unrolled import LEAST, Unrolled, unrolled
from ._base import Rule


class UnrolledLoop(Rule):
    """The same equations at least 8 times from one line, over data and not over layers."""

    slug = "unrolled-loop"
    line = "vmap"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each loop, at the line that does most in it."""
        total = audited.program.num_equations
        for loop in unrolled(audited.program.jaxpr):
            fix = _SCAN if loop.chained else _VMAP
            yield Finding(self.slug, "warning", _message(loop, total), loop.place, fix)

    def evidence(self, audited: Audited) -> str:
        """That there are none."""
        return f"no loop over data is unrolled {LEAST} times or more"


_VMAP = (
    "No turn needs another one: `jax.vmap` over the axis that the loop goes along does all of them "
    "at once, and is traced and compiled once; sum or average what comes out."
)
_SCAN = (
    "Each turn needs the one before: `jax.lax.scan` (`jax.lax.fori_loop` where nothing is "
    "collected) is traced and compiled once, however many turns there are."
)


def _message(loop: Unrolled, total: int) -> str:
    share = loop.equations / max(total, 1)
    return (
        f"a loop of Python runs this {loop.turns} times, and the program holds every turn: "
        f"{loop.equations:,} of its {total:,} equations ({share:.0%}); the time to trace and to "
        f"compile grows with the turns"
    )
