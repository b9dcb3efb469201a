"""What is linear."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ...tree._match import require_match
from ._law import Law, is_float
from ._law import __tracebackhide__ as __tracebackhide__


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

    Everything else is held constant: integers, keys and leaves that are no arrays are those of `x`
    throughout, and what `f` makes of them must not depend on the floats. Sums of floats round, so
    what adds (a mean over layers) holds within a tolerance, or bit for bit on small whole numbers;
    what only moves numbers about (a permutation, a transposition) holds bit for bit on any finite
    ones. The sign of a zero does not count, which sums lose.

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
    y = jax.tree.map(lambda one, two: two if is_float(one) else one, x, y)
    a, b = scalars
    of_x, of_y = law.call("f", f, x), law.call("f", f, y)
    sides = ("f(x)", "f(y), all floats of both taken for 0")
    law.require_same(_without_floats(of_x), _without_floats(of_y), sides)
    whole = law.call("f", f, _combined(a, x, b, y))
    apart = _combined(a, of_x, b, of_y)
    sides = ("f(a x + b y)", "a f(x) + b f(y)")
    law.require_same(_without_signs_of_zero(whole), _without_signs_of_zero(apart), sides)


def _combined(a: float, x: PyTree, b: float, y: PyTree) -> PyTree:
    return _map_floats(lambda one, two: a * one + b * two, x, y)


def _without_floats(tree: PyTree) -> PyTree:
    return _map_floats(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


def _without_signs_of_zero(tree: PyTree) -> PyTree:
    return _map_floats(lambda leaf: leaf + 0.0, tree)


def _map_floats(function: Callable[..., Any], tree: PyTree, *more: PyTree) -> PyTree:
    def leaf(one: Any, *others: Any) -> Any:
        if not is_float(one):
            return one
        result = function(one, *others)
        # NumPy makes float64 of a bfloat16 and a Python number.
        return result if isinstance(one, jax.Array) else np.asarray(result).astype(one.dtype)

    return jax.tree.map(leaf, tree, *more)
