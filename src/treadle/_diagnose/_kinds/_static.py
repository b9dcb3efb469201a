"""Shapes, slices and texts that depend on what is only known when the program runs."""

import ast

from .._note import Explanation
from .._raised import Raised

_SLICES = ("Slice entries must be static integers", "Array slice indices must have static start")


def explain_static(raised: Raised) -> Explanation | None:
    """Where a shape, a slice or a text is made of a traced value."""
    message = raised.message
    if isinstance(raised.error, TypeError) and message.startswith("Shapes must be 1D sequences"):
        if "Trace" not in message.split("\n")[0]:
            return None
        return Explanation(
            "A shape is made of a traced number, and every array in a traced program has a shape "
            "that is known before it runs.",
            "take it from a shape that is known (`x.shape[0]`, `len(x)`), or make the number "
            "static: `jax.jit(..., static_argnames=...)`, a field `eqx.field(static=True)`.",
            "shapes-must-be-1d-sequences-of-concrete-values",
        )
    if isinstance(raised.error, IndexError) and message.startswith(_SLICES):
        return Explanation(
            "The ends of a slice are traced, so that its length is not known, and every array in "
            "a traced program has a shape that is known before it runs.",
            _slice(raised),
            "slice-entries-must-be-static-integers",
        )
    if isinstance(raised.error, TypeError) and "Tracer.__format__" in message:
        return formatted()
    return None


def formatted() -> Explanation:
    """What is said where a text is made of a traced value."""
    return Explanation(
        "A text is made while JAX traces the function, when an array has no value yet.",
        '`jax.debug.print("x = {x:.3f}", x=x)`, which prints while the program runs; or return '
        "it (as aux of the loss), and print that.",
        "unsupported-format-string-passed-to-a-tracer",
        ("rules/side-effect/",),
    )


def _slice(raised: Raised) -> str:
    node = raised.node
    if isinstance(node, ast.Subscript):
        array = raised.text(node.value)
        return (
            f"`jax.lax.dynamic_slice_in_dim({array}, start, size)` with a `size` that is a "
            f"Python integer; or keep all and mask: `jnp.where(jnp.arange(n) < stop, {array}, 0)`."
        )
    return "`jax.lax.dynamic_slice_in_dim(x, start, size)` with a `size` that is a Python integer."
