"""`dead-parameter`: an array is trained, and nothing of the data reaches it."""

from collections.abc import Iterator

from .._audited import Audited
from .._dead._dead import Dead, dead_of
from .._finding import Finding
from .._source import Place
from ._base import Rule

_MOST = 4
"""Arrays that a message names."""


class DeadParameter(Rule):
    """A gradient is zero by the program's text, so that an array never learns."""

    slug = "dead-parameter"
    line = "dtypes"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each line and reason, with all arrays that it concerns."""
        groups: dict[tuple[Place | None, str], list[Dead]] = {}
        for dead in dead_of(audited):
            groups.setdefault((dead.place, dead.reason), []).append(dead)
        for (place, reason), group in groups.items():
            message = f"{_names(group)}: {_why(reason, place)}"
            yield Finding(self.slug, "warning", message, place, _fix(reason))

    def evidence(self, audited: Audited) -> str | None:
        """That everything which is trained learns."""
        if not audited.program.trains or not audited.states:
            return None
        return "data reaches every array that is updated"


def _names(group: list[Dead]) -> str:
    told = [
        f"`{dead.leaf.path.removeprefix('state.')}` "
        f"({dead.leaf.aval.dtype}{list(dead.leaf.aval.shape)})"
        for dead in group[:_MOST]
    ]
    more = len(group) - _MOST
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")


def _why(reason: str, place: Place | None) -> str:
    at = "" if place is None else f" at {place.short}"
    match reason:
        case "alone":
            return "updated without anything of the data: it decays, and learns nothing"
        case "unread":
            return "updated, and the loss does not read it: its gradient is zero in every step"
        case "unused":
            return (
                "updated, and nothing that is computed from it reaches the loss: its gradient is "
                "zero in every step"
            )
        case "zero":
            return f"updated, and it counts only times zero{at}: its gradient is zero in every step"
        case "stop_gradient":
            return (
                f"updated, and its gradient is stopped by `stop_gradient`{at}: it is zero in every "
                f"step"
            )
    return f"updated, and its gradient ends{at}: `{reason}` has none, so it is zero in every step"


def _fix(reason: str) -> str:
    match reason:
        case "alone":
            return (
                "Use it in the loss, or leave it out of what is updated; take what is frozen out "
                "of the weight decay too."
            )
        case "unread" | "unused":
            return "Use it in the loss, or leave it out of the model."
        case "zero":
            return (
                "Leave out the term and what belongs to it, or give it a weight that is not zero."
            )
        case "stop_gradient":
            return (
                "Move `stop_gradient` behind what is to learn; or freeze it in so many words: hand "
                "it in apart (`eqx.partition`), or `TrainStep(..., trainable=...)`."
            )
    return (
        "Use what can be differentiated: a softmax for an argmax, "
        "`x + jax.lax.stop_gradient(jnp.round(x) - x)` for a rounding."
    )
