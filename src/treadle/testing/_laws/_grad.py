"""What derivatives are."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..._compat import enable_x64
from ..._errors import TreeError
from ...tree._match import some
from ...tree._paths import flatten_with_paths
from ._derivative import Leaves, Point, Range, direction_like, jumps
from ._law import Law
from ._law import __tracebackhide__ as __tracebackhide__
from ._traced import UNTRACEABLE, first_line

_DIRECTIONS = 3
_GROUPS = 8


def check_grad(
    f: Callable[..., PyTree], *args: Any, rtol: float = 1e-5, atol: float = 1e-7
) -> None:
    """Derivatives are derivatives: forward and reverse mode agree with finite differences.

    In random directions `v`, in float64: `J v = (f(x + h·v) - f(x - h·v)) / 2h` for a small `h`,
    and `⟨u, J v⟩ = ⟨Jᵀu, v⟩`. Each array is moved alone (in eight groups, where there are more than
    eight), so a `stop_gradient` too many or a wrong custom derivative is found in whichever leaf,
    however small beside the others. What `f` gives while it is differentiated is `f(x)`, too.

    At a kink (`relu` at 0) the derivative must lie between those from the left and from the right;
    where many meet (the ties of a sort) it must be in the reach of those close by. Where `x` is NaN
    or infinite it is not moved, and where `f(x)` is, nothing is compared.

    Args:
        f: From trees to a tree, differentiable in the arrays of real floats; these are float64
            inside, so `f` should keep dtypes. Everything else is held constant. It may lack the
            forward mode (`jax.custom_vjp`), not the reverse mode.
        args: Its arguments.
        rtol: How far the sides may differ, relative to the size of the derivative.
        atol: And absolutely.

    Raises:
        LawError: A derivative is wrong, or there is none.
        TreeError: There is no array of real floats in `args`, or `f` returns none, or none that is
            finite anywhere.

    Example:
        >>> check_grad(lambda model, x: model(x), model, x)
    """
    law = Law("check_grad", rtol, atol)
    with enable_x64(True):
        wide = jax.tree.map(_widened, args)
        variables, constants = eqx.partition(wide, _is_real)
        if not jax.tree.leaves(variables):
            raise TreeError("`args` has no arrays of real floats: nothing to differentiate by.")

        def function(moved: PyTree) -> dict[str, jax.Array]:
            named, _ = flatten_with_paths(f(*eqx.combine(moved, constants)))
            return {path: jnp.asarray(leaf) for path, leaf in named if _is_real(leaf)}

        law.call("f", f, *wide)
        point = Point(function, variables)
        _require_numbers(point.outputs)
        reverse = _in_mode(law, "reverse", point.reverse)
        sides = ("f(x) while differentiated in reverse mode", "f(x)")
        law.require_same(reverse, point.outputs, sides)
        # One seed: a failure is the same failure when the example is tried again.
        generator = np.random.default_rng(0)
        for paths, direction in _directions(generator, variables):
            _check_direction(law, point, generator, direction, some(map(repr, paths)))


def _is_real(leaf: Any) -> bool:
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _widened(leaf: Any) -> Any:
    return jnp.asarray(np.asarray(leaf), jnp.float64) if _is_real(leaf) else leaf


def _require_numbers(outputs: Leaves) -> None:
    if not outputs:
        raise TreeError("`f` returned no arrays of real floats: nothing to differentiate.")
    found = np.concatenate([leaf.ravel() for leaf in outputs.values()])
    if found.size and not np.isfinite(found).any():
        raise TreeError("`f` returned nothing finite: there is no derivative to check.")


def _in_mode(law: Law, mode: str, call: Callable[..., Any], *args: Any) -> Any:
    """A call of what worked without being differentiated."""
    try:
        return call(*args)
    except UNTRACEABLE as error:
        raise law.broken(f"f has no {mode} mode: {first_line(error)}") from error


def _directions(
    generator: np.random.Generator, variables: PyTree
) -> Iterator[tuple[list[str], PyTree]]:
    """Random directions, and the paths of what each moves."""
    named, treedef = flatten_with_paths(variables)
    groups = min(_GROUPS, len(named))
    for number in range(max(_DIRECTIONS, groups)):
        group = range(number % groups, len(named), groups)
        moved = [
            direction_like(generator, leaf) if at in group else jnp.zeros_like(leaf)
            for at, (_, leaf) in enumerate(named)
        ]
        yield [named[at][0] for at in group], jax.tree.unflatten(treedef, moved)


def _check_direction(
    law: Law, point: Point, generator: np.random.Generator, direction: PyTree, moved: str
) -> None:
    ranges = point.differences(direction)
    forward = _in_mode(law, "forward", point.forward, direction)
    if forward is not None:
        outputs, found = forward
        sides = ("f(x) while differentiated in forward mode", "f(x)")
        law.require_same(outputs, point.outputs, sides)
        wrong = {
            path: _wrong(law, point, path, found[path], range_) for path, range_ in ranges.items()
        }
        if any(map(np.any, wrong.values())):
            low, high = point.neighbours(generator, direction)
            for path, range_ in ranges.items():
                many = _is_of_many(found[path], range_, low[path], high[path])
                wrong[path] = np.asarray(wrong[path] & ~many)
                _require_none(law, point, path, found[path], wrong[path], range_, moved)
        # At a kink, it is forward mode that reverse mode has to agree with.
        ranges = {
            path: each._replace(low=found[path], high=found[path], rounding=0.0)
            for path, each in ranges.items()
        }
    covector = {
        path: _covector(generator, ranges[path], here) for path, here in point.outputs.items()
    }
    backward = _in_mode(law, "reverse", point.transposed, covector)
    # What is not finite has NaN for a derivative, and 0 times NaN hides in reverse mode what else
    # an argument does. Where all outputs are finite a NaN is a wrong derivative.
    if not all(np.isfinite(output).all() for output in point.outputs.values()):
        known = jax.tree.map(_where_known, direction, backward)
        if not eqx.tree_equal(known, direction):
            _check_direction(law, point, generator, known, moved)
            return
    _require_transpose(law, covector, ranges, backward, direction, moved)


def _where_known(direction: jax.Array, gradient: jax.Array) -> jax.Array:
    return jnp.asarray(np.where(np.isnan(gradient), 0.0, direction))


def _largest(array: np.ndarray) -> float:
    return float(np.max(np.abs(array), where=np.isfinite(array), initial=0.0))


def _wrong(law: Law, point: Point, path: str, found: np.ndarray, range_: Range) -> np.ndarray:
    """Where a derivative is not between those on both sides."""
    slack = law.atol + law.rtol * (np.abs(found) + _largest(found)) + range_.rounding
    right = (found >= range_.low - slack) & (found <= range_.high + slack)
    return np.asarray(~right & np.isfinite(point.outputs[path]))


def _is_of_many(found: np.ndarray, range_: Range, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where many derivatives meet (at ties of a sort, say), and one may be any of them."""
    reach = high - low
    among = (found >= low - reach) & (found <= high + reach)
    return np.asarray(jumps(range_, low, high) & among)


def _require_none(
    law: Law,
    point: Point,
    path: str,
    found: np.ndarray,
    where: np.ndarray,
    range_: Range,
    moved: str,
) -> None:
    wrong = np.argwhere(where)
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        dtype = point.dtypes[path]
        hint = "" if dtype == np.float64 else f"; f made {dtype} of float64 on the way"
        raise law.broken(
            f"forward mode gives {found[at]:.9g} where finite differences give "
            f"{range_.left[at]:.9g} on the left and {range_.right[at]:.9g} on the right, of output "
            f"{path!r} at {list(at)} ({len(wrong)} of {where.size} are wrong) when the arguments "
            f"at {moved} move in a random direction{hint}"
        )


def _covector(generator: np.random.Generator, range_: Range, here: np.ndarray) -> np.ndarray:
    """Random weights of an output, so that all outputs count whatever their size."""
    size = max(_largest(range_.low), _largest(range_.high)) or 1.0
    return np.asarray(generator.normal(size=here.shape) / size * np.isfinite(here))


def _require_transpose(
    law: Law,
    covector: Leaves,
    ranges: dict[str, Range],
    backward: PyTree,
    direction: PyTree,
    moved: str,
) -> None:
    low = high = size = rounding = 0.0
    for path, weights in covector.items():
        used = weights != 0
        ends = [np.where(used, weights * end, 0.0) for end in (ranges[path].low, ranges[path].high)]
        low += float(np.sum(np.minimum(*ends)))
        high += float(np.sum(np.maximum(*ends)))
        size += float(np.sum(np.abs(ends)))
        rounding += float(np.sum(np.abs(weights))) * ranges[path].rounding
    pairs = zip(jax.tree.leaves(backward), jax.tree.leaves(direction), strict=True)
    terms = [np.where(v == 0, 0.0, np.asarray(g) * np.asarray(v)).ravel() for g, v in pairs]
    products = np.concatenate(terms)
    found = float(np.sum(products))
    slack = law.atol + law.rtol * (size + float(np.sum(np.abs(products)))) + rounding
    if not low - slack <= found <= high + slack:
        raise law.broken(
            f"reverse mode does not agree: <u, Jv> is {(low + high) / 2:.9g} and <Jᵀu, v> is "
            f"{found:.9g}, for random u, and v that moves the arguments at {moved}"
        )
