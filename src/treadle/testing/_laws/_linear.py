"""What is linear."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from ...tree._match import require_match
from ._law import Law, is_float


def check_linear(
    f: Callable[[PyTree], PyTree],
    x: PyTree,
    y: PyTree,
    *,
    scalars: tuple[float, float] = (2.0, -0.5),
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """`f` is linear in the arrays of floats: `f(a·x + b·y) = a·f(x) + b·f(y)`.

    Everything else in the trees must be the same, and stays. Sums of floats round, so what adds
    (a mean over layers) holds within a tolerance, or bit for bit on small whole numbers; what only
    moves numbers about (a permutation, a transposition) holds bit for bit on any finite ones.

    Args:
        f: From a tree to a tree.
        x: A tree.
        y: Another of the same structure and shapes.
        scalars: `a` and `b`. Powers of two scale without rounding.
        rtol: Arrays of floats may differ by `atol + rtol * |right side|`; by default not in a bit.
        atol: See there.

    Raises:
        LawError: The sides differ, or `f` changed its argument in place.
        TreeError: `x` and `y` do not fit each other.

    Example:
        >>> check_linear(lambda grads: jax.tree.map(jnp.transpose, grads), grads, more_grads)
    """
    law = Law("check_linear", rtol, atol)
    require_match(x, y, ("`x`", "`y`"))
    a, b = scalars
    whole = law.call("f", f, _combined(a, x, b, y))
    apart = _combined(a, law.call("f", f, x), b, law.call("f", f, y))
    law.require_same(whole, apart, ("f(a x + b y)", "a f(x) + b f(y)"))


def _combined(a: float, x: PyTree, b: float, y: PyTree) -> PyTree:
    def leaf(one: Any, two: Any) -> Any:
        return a * one + b * two if is_float(one) else one

    return jax.tree.map(leaf, x, y)
