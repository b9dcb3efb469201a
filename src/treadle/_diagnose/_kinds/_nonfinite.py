"""Losses and values that are NaN or infinite."""

import re

from ..._errors import NonFiniteError
from .._note import Explanation
from .._raised import Raised

_JAX = re.compile(r"invalid value \((nan|inf)\) encountered in (.+)")
_FIXES = {
    "log": "`jnp.log(jnp.maximum(x, 1e-12))`, or `jax.nn.log_softmax(logits)` instead of the log "
    "of a softmax.",
    "log1p": "keep `x` above -1: `jnp.log1p(jnp.maximum(x, -1 + 1e-6))`.",
    "div": "`jnp.where(d == 0, 0.0, x / jnp.where(d == 0, 1.0, d))`: both `where`s, since the "
    "gradient of the way not taken counts too.",
    "sqrt": "`jnp.sqrt(jnp.maximum(x, 1e-12))`, which bounds the gradient at 0 as well.",
    "rsqrt": "`jax.lax.rsqrt(x + 1e-12)`.",
    "exp": "`jnp.exp(x - jnp.max(x))`, or `jax.nn.softmax`, `jax.nn.logsumexp`.",
    "pow": "keep the base above 0: `jnp.maximum(x, 1e-12) ** y`.",
}


def explain_nonfinite_value(raised: Raised) -> Explanation | None:
    """What is not finite: in a step of treadle, or where `jax_debug_nans` stopped."""
    if isinstance(raised.error, NonFiniteError):
        return Explanation(
            "A loss or a gradient is NaN or infinite. The check does not wait for the device, so "
            "this line is where it was told, and the message has the number of the step.",
            "`treadle.explain_nonfinite(step, state, batch)` names the first operation that gave "
            "one, with its line and what went in; `treadle.replay(run, step, ...)` brings back the "
            "state and the batch from before.",
            "nonfiniteerror",
            ("guides/nonfinite/",),
        )
    found = _JAX.search(raised.message)
    if not isinstance(raised.error, FloatingPointError) or found is None:
        return None
    what = "NaN" if found[1] == "nan" else "an infinity"
    name = found[2].strip().rstrip(".")
    operation = name if re.fullmatch(r"\w+", name) else ""
    known = operation not in ("", "jit", "pjit")
    return Explanation(
        f"`{name}` gave {what}, on this line or in the "
        f"derivative of what it calls; `jax_debug_{found[1]}s` stops at the first operation that "
        f"does."
        if known
        else f"A compiled function gave {what}; `jax_debug_{found[1]}s` stops there.",
        _FIXES.get(
            operation,
            "look at what goes in, with `jax.debug.print`, or `treadle.explain_nonfinite(step, "
            "state, batch)` in a step of treadle.",
        ),
        "floatingpointerror",
        ("guides/nonfinite/",),
    )
