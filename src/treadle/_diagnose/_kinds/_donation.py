"""Arrays whose memory was given to a compiled call."""

from .._note import Explanation
from .._raised import Raised

_GONE = ("Array has been deleted with shape", "uffer has been deleted or donated")
_TWICE = "Attempt to donate the same buffer twice"


def explain_donation(raised: Raised) -> Explanation | None:
    """Where an array is used that is gone, or given away twice."""
    if not isinstance(raised.error, RuntimeError | ValueError) or raised.by_user:
        return None
    if any(text in raised.message for text in _GONE):
        return Explanation(
            f"{_which(raised)} was donated to a compiled call (`donate_argnums`, "
            f"`eqx.filter_jit(donate=...)`, a step of treadle) or deleted: its memory holds "
            f"something else now.",
            "go on with what that call returned: `state = step(state, batch)`; or copy before it: "
            "`kept = jax.tree.map(jnp.copy, state)` (`state.copy()` of a `TrainState`); or do not "
            "donate that argument.",
            "array-has-been-deleted",
            ("rules/undonated-state/",),
        )
    if _TWICE in raised.message:
        return Explanation(
            "One array stands in two places of what is donated (tied weights, an average that "
            "begins as the parameters), and its memory can be given away once.",
            "give each its own memory before the first call: `average = jax.tree.map(jnp.copy, "
            "params)`; weights that are to stay one: `treadle.tree.tie`.",
            "attempt-to-donate-the-same-buffer-twice",
        )
    return None


def _which(raised: Raised) -> str:
    gone = [
        name
        for name, value in raised.arrays()
        if callable(getattr(value, "is_deleted", None)) and value.is_deleted()
    ]
    return f"`{gone[0]}`" if len(gone) == 1 else "An array that is used here"
