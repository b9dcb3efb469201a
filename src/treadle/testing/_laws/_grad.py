"""What derivatives are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..._compat import enable_x64
from ..._errors import TreeError
from ._law import Law

# The cube root of float64's precision balances rounding against the error of the difference.
_STEP = 6e-6
_DIRECTIONS = 3


def check_grad(
    f: Callable[..., PyTree], *args: Any, rtol: float = 1e-5, atol: float = 1e-7
) -> None:
    """Derivatives are derivatives: forward and reverse mode agree with finite differences.

    In a few random directions `v`, in float64: `J v = (f(x + h·v) - f(x - h·v)) / 2h` for a small
    `h`, and `⟨u, J v⟩ = ⟨Jᵀu, v⟩`. So a `stop_gradient` too many or a wrong custom derivative is
    found, in whichever leaf.

    At a kink (`relu` at 0) the derivative must lie between those from the left and from the right.

    Args:
        f: From trees to a tree, differentiable in the arrays of real floats; these are float64
            inside, so `f` should keep dtypes. Everything else is held constant.
        args: Its arguments.
        rtol: How far the sides may differ, relative to the size of the derivative.
        atol: And absolutely.

    Raises:
        LawError: A derivative is wrong, or is not one in both modes.
        TreeError: There is no array of real floats in `args`, or `f` returns none.

    Example:
        >>> check_grad(lambda model, x: model(x), model, x)
    """
    law = Law("check_grad", rtol, atol)
    with enable_x64(True):
        wide = jax.tree.map(_widened, args)
        variables, constants = eqx.partition(wide, _is_real)
        if not jax.tree.leaves(variables):
            raise TreeError("`args` has no arrays of real floats: nothing to differentiate by.")

        def function(moved: PyTree) -> list[jax.Array]:
            result = f(*eqx.combine(moved, constants))
            return [leaf for leaf in jax.tree.leaves(result) if _is_real(leaf)]

        law.call("f", f, *wide)
        outputs = [np.asarray(leaf) for leaf in function(variables)]
        if not outputs:
            raise TreeError("`f` returned no arrays of real floats: nothing to differentiate.")
        # One seed: a failure is the same failure when the example is tried again.
        generator = np.random.default_rng(0)
        for _ in range(_DIRECTIONS):
            _check_direction(law, function, variables, outputs, generator)


def _is_real(leaf: Any) -> bool:
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _widened(leaf: Any) -> Any:
    return jnp.asarray(np.asarray(leaf), jnp.float64) if _is_real(leaf) else leaf


class _Differences(NamedTuple):
    """Finite differences of all outputs, one after another."""

    left: np.ndarray
    right: np.ndarray
    central: np.ndarray


def _random_like(generator: np.random.Generator, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape)), tree)


def _check_direction(
    law: Law,
    function: Callable[[PyTree], list[jax.Array]],
    variables: PyTree,
    outputs: list[np.ndarray],
    generator: np.random.Generator,
) -> None:
    direction = _random_like(generator, variables)
    covector = [jnp.asarray(generator.normal(size=leaf.shape), leaf.dtype) for leaf in outputs]
    differences = _differences(function, variables, direction, outputs)
    forward = _forward(function, variables, direction)
    if forward is not None:
        _require_derivative(law, forward, differences)
    (backward,) = jax.vjp(function, variables)[1](covector)
    # At a kink the finite difference is between those of the two modes.
    along = differences.central if forward is None else forward
    _require_transpose(law, _flat(covector) * along, _flat(backward) * _flat(direction))


def _forward(
    function: Callable[[PyTree], list[jax.Array]], variables: PyTree, direction: PyTree
) -> np.ndarray | None:
    """The derivative in a direction; `None` where there is only a reverse mode."""
    try:
        return _flat(jax.jvp(function, (variables,), (direction,))[1])
    except TypeError as error:
        if "custom_vjp" in str(error):
            return None
        raise


def _require_transpose(law: Law, one: np.ndarray, two: np.ndarray) -> None:
    left, right = float(np.sum(one)), float(np.sum(two))
    slack = law.atol + law.rtol * float(np.sum(np.abs(one)) + np.sum(np.abs(two)))
    if not abs(left - right) <= slack:
        raise law.broken(
            f"reverse mode does not agree: <u, Jv> is {left:.9g} and <Jᵀu, v> is {right:.9g}, for "
            f"random u and v"
        )


def _flat(tree: PyTree) -> np.ndarray:
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def _differences(
    function: Callable[[PyTree], list[jax.Array]],
    variables: PyTree,
    direction: PyTree,
    outputs: list[np.ndarray],
) -> _Differences:
    # Relative to the numbers: a step of 1e-6 is nothing beside 1e12.
    step = _STEP * max(1.0, float(np.max(np.abs(_flat(variables)), initial=0.0)))

    def at(times: float) -> np.ndarray:
        moved = jax.tree.map(lambda x, v: x + times * step * v, variables, direction)
        return _flat(function(moved))

    here, ahead, behind = _flat(outputs), at(1.0), at(-1.0)
    return _Differences(
        (here - behind) / step, (ahead - here) / step, (ahead - behind) / (2 * step)
    )


def _require_derivative(law: Law, forward: np.ndarray, found: _Differences) -> None:
    # The two sides of a smooth function differ by the step times its second derivative.
    apart = np.abs(found.right - found.left)
    kink = apart > 1e-3 * (1 + np.abs(found.central))
    slack = law.atol + law.rtol * (np.abs(found.central) + np.max(np.abs(forward), initial=0.0))
    smooth = np.abs(forward - found.central) <= slack
    low, high = np.minimum(found.left, found.right), np.maximum(found.left, found.right)
    between = (forward >= low - slack) & (forward <= high + slack)
    wrong = ~np.where(kink, between, smooth)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise law.broken(
            f"forward mode gives {forward[at]:.9g} where finite differences give "
            f"{found.central[at]:.9g} (from the left {found.left[at]:.9g}, from the right "
            f"{found.right[at]:.9g}): output {at} of {len(wrong)} in a random direction"
        )
