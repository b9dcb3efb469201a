"""`mutated-closure`: tracing changes something that the function can reach."""

from collections.abc import Iterator

from .._audited import Audited
from .._finding import Finding
from ._base import Rule


class MutatedClosure(Rule):
    """A list, an attribute, a variable of the closure or of the module is changed while tracing."""

    slug = "mutated-closure"
    line = "mutation"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each object that was changed."""
        for change in audited.program.changes:
            if not change.leaks:
                message = (
                    f"`{change.name}` is changed while the function is traced: that happens once "
                    f"for each compilation, not once for each call"
                )
                place = change.place or audited.program.place
                yield Finding(self.slug, "warning", message, place, _FIX)

    def evidence(self, audited: Audited) -> str:
        """That nothing was."""
        return "nothing that the function can reach was changed by tracing it"


_FIX = "Take it as an argument and return the new value: `step(state, batch) -> (state, metrics)`."
