"""A function at a point: its derivatives as JAX has them, and as finite differences find them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

# The cube root of float64's precision balances rounding against the error of the difference.
_STEP = 6e-6
# Less than this part of a number would be lost in its rounding.
_RELATIVE_STEP = 1e-9
# What a difference loses to rounding, for each unit of what is subtracted.
_ROUNDING = 8 * float(np.finfo(np.float64).eps) / _STEP
# The two sides of a smooth function differ by the step times its second derivative.
_KINK = 1e-3
# Points so far off are neighbours: many steps away, so that what was equal (ties of a sort) is not.
_AWAY = 1e-4
_NEIGHBOURS = 16
# What a derivative may change on the way to one, where there is no kink.
_JUMP = 1e-2

Leaves = dict[str, np.ndarray]
"""Arrays by their paths, in float64."""


class Range(NamedTuple):
    """The derivatives that an output can have in some direction, an interval for each element.

    Attributes:
        low: Its lower end; at a kink that of one side.
        high: Its upper end; where the function is smooth the same.
        rounding: How far off they may be.
        left: The difference on the left.
        right: That on the right.
    """

    low: np.ndarray
    high: np.ndarray
    rounding: float
    left: np.ndarray
    right: np.ndarray


class Point:
    """A function, and where it is looked at.

    Args:
        function: From a tree of arrays of float64 to such arrays by their paths.
        variables: The tree.

    Attributes:
        outputs: What it gives there.
        dtypes: In which dtypes.
    """

    def __init__(
        self, function: Callable[[PyTree], dict[str, jax.Array]], variables: PyTree
    ) -> None:
        self._function = function
        self._variables = variables
        outputs = function(variables)
        self.dtypes = {path: leaf.dtype for path, leaf in outputs.items()}
        self.outputs = _on_host(outputs)
        self._pull: Callable[..., tuple[PyTree]] | None = None

    def reverse(self) -> Leaves:
        """What it gives when it is differentiated in reverse mode, which `transposed` needs."""
        outputs, self._pull = jax.vjp(self._function, self._variables)
        return _on_host(outputs)

    def transposed(self, covector: Leaves) -> PyTree:
        """The transposed derivative of a covector."""
        assert self._pull is not None
        typed = {path: jnp.asarray(leaf, self.dtypes[path]) for path, leaf in covector.items()}
        return self._pull(typed)[0]

    def forward(self, direction: PyTree) -> tuple[Leaves, Leaves] | None:
        """What it gives in forward mode, and the derivative; `None` where that mode is missing."""
        try:
            outputs, found = jax.jvp(self._function, (self._variables,), (direction,))
        except TypeError as error:
            if "custom_vjp" in str(error):
                return None
            raise
        return _on_host(outputs), _on_host(found)

    def differences(self, direction: PyTree) -> dict[str, Range]:
        """Finite differences in a direction."""
        ahead, behind = self._moved(direction, _STEP), self._moved(direction, -_STEP)
        return {
            path: _range(behind[path], here, ahead[path]) for path, here in self.outputs.items()
        }

    def neighbours(
        self, generator: np.random.Generator, direction: PyTree
    ) -> tuple[Leaves, Leaves]:
        """The least and the greatest derivatives in a direction at points close by."""
        found: dict[str, list[np.ndarray]] = {path: [] for path in self.outputs}
        for _ in range(_NEIGHBOURS):
            away = jax.tree.map(lambda x: x + _AWAY * direction_like(generator, x), self._variables)
            ahead, behind = (self._moved(direction, times, away) for times in (_STEP, -_STEP))
            for path, each in found.items():
                with np.errstate(invalid="ignore", over="ignore"):
                    each.append((ahead[path] - behind[path]) / (2 * _STEP))
        low = {path: np.asarray(np.fmin.reduce(each)) for path, each in found.items()}
        return low, {path: np.asarray(np.fmax.reduce(each)) for path, each in found.items()}

    def _moved(self, direction: PyTree, times: float, start: PyTree = None) -> Leaves:
        start = self._variables if start is None else start
        moved = jax.tree.map(lambda x, v: x + times * v, start, direction)
        return _on_host(self._function(moved))


def _on_host(leaves: dict[str, jax.Array]) -> Leaves:
    return {path: np.asarray(leaf, np.float64) for path, leaf in leaves.items()}


def _range(behind: np.ndarray, here: np.ndarray, ahead: np.ndarray) -> Range:
    with np.errstate(invalid="ignore", over="ignore"):
        left, right = (here - behind) / _STEP, (ahead - here) / _STEP
        central = (ahead - behind) / (2 * _STEP)
        kink = np.abs(right - left) > _KINK * (1 + np.abs(central))
    size = np.max(np.abs(here), where=np.isfinite(here), initial=0.0)
    return Range(
        np.where(kink, np.minimum(left, right), central),
        np.where(kink, np.maximum(left, right), central),
        _ROUNDING * float(size),
        left,
        right,
    )


def jumps(range_: Range, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where the derivatives at neighbours are others than those on both sides of a point.

    Args:
        range_: Those on the two sides.
        low: The least of the neighbours.
        high: The greatest.
    """
    least, greatest = np.minimum(range_.low, range_.high), np.maximum(range_.low, range_.high)
    slack = _JUMP * (1 + np.maximum(np.abs(least), np.abs(greatest)))
    return np.asarray((low < least - slack) | (high > greatest + slack))


def direction_like(generator: np.random.Generator, leaf: jax.Array) -> jax.Array:
    """A random direction to move an array in, longer where its numbers are large."""
    sizes = np.maximum(1.0, np.abs(np.asarray(leaf)) * (_RELATIVE_STEP / _STEP))
    moves = np.isfinite(sizes)
    return jnp.asarray(generator.normal(size=leaf.shape) * np.where(moves, sizes, 0.0))
