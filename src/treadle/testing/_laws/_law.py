"""What all laws share: calling what is tested, comparing trees, saying what does not hold."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..._errors import LawError
from ...tree._diff import diff
from ...tree._difference import Diff


class Law(NamedTuple):
    """One law, on its way to a verdict.

    Attributes:
        check: The name of the function that checks it, `"check_idempotent"`.
        rtol: Relative tolerance of its comparisons.
        atol: Absolute tolerance.
        ignored: Kinds of differences that do not count.
    """

    check: str
    rtol: float = 0.0
    atol: float = 0.0
    ignored: Collection[str] = ()

    def require_same(self, left: PyTree, right: PyTree, equation: tuple[str, str]) -> None:
        """Compares two trees, bit for bit where no tolerance was given.

        Args:
            left: What one side of the equation gave.
            right: What the other gave.
            equation: The two sides in words.

        Raises:
            LawError: They differ.
        """
        found = diff(left, right, rtol=self.rtol, atol=self.atol)
        found = Diff(tuple(each for each in found if each.kind not in self.ignored))
        if found:
            a, b = equation
            raise self.broken(f"a, {a}, is not b, {b}", found)

    def broken(self, told: str, found: Diff | None = None) -> LawError:
        """The error that says so."""
        return LawError(f"`{self.check}` does not hold: {told}.", found)

    def call(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)`, which leaves its arguments as they were.

        Raises:
            LawError: It changed one in place, or gave away its memory.
        """
        before = snapshot(args)
        result = function(*args)
        if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(args)):
            raise self.broken(f"`{name}` deleted (donated) an array of its arguments")
        changed = diff(args, before)
        if changed:
            raise self.broken(
                f"`{name}` changed its arguments in place; a is after the call, b before", changed
            )
        return result


def snapshot(tree: PyTree) -> PyTree:
    """The same tree in containers of its own, NumPy arrays copied. JAX's never change."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def copied(tree: PyTree) -> PyTree:
    """The same tree with every array in memory of its own."""
    return jax.tree.map(_copied, tree)


def _copied(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return jnp.copy(leaf)  # Weak types stay, and where it lies.
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def on_device(tree: PyTree) -> PyTree:
    """NumPy arrays as JAX's, as which they arrive inside of a transformation."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, (np.ndarray, np.generic)) else leaf, tree
    )


def without_scalars(tree: PyTree) -> PyTree:
    """The same tree with NumPy's scalars as arrays: arithmetic on an array without axes gives one.

    To JAX they are the same.
    """
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) if isinstance(leaf, np.generic) else leaf, tree
    )


def is_float(leaf: Any) -> bool:
    """Whether a leaf is an array of floats or complex numbers."""
    # Equinox's own filter does not know NumPy arrays of bfloat16.
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)
