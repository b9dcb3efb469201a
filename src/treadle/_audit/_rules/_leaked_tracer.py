"""`leaked-tracer`: something outside of the function holds a tracer."""

from collections.abc import Iterator

from .._audited import Audited
from .._finding import Finding
from ._base import Rule


class LeakedTracer(Rule):
    """An intermediate value is stored outside of the function, where it has no value."""

    slug = "leaked-tracer"
    line = "mutation"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each object that holds one."""
        for change in audited.program.changes:
            if change.leaks:
                message = (
                    f"`{change.name}` holds a tracer after the function was traced: that is no "
                    f"array, and using it raises `UnexpectedTracerError`"
                )
                place = change.place or audited.program.place
                yield Finding(self.slug, "error", message, place, _FIX)

    def evidence(self, audited: Audited) -> str | None:
        """Told by `mutated-closure`."""
        return None


_FIX = "Return the value, with the metrics or in the state, and store what comes back."
