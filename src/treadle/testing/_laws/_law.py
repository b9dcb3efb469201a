"""What all laws share: calling what is tested, comparing trees, saying what does not hold."""

import operator
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from ..._errors import ArgumentTypeError, ArgumentValueError, LawError
from ...tree._diff import diff
from ...tree._difference import Diff
from .._drawn import require_drawn

# In pytest's tracebacks a broken law is at the line of the test that called it.
__tracebackhide__ = operator.methodcaller("errisinstance", LawError)


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
            LawError: It changed one in place, or gave away its memory; or what it returns is of an
                earlier call, which was traced.
            ArgumentTypeError, ArgumentValueError: It cannot be called with that.
        """
        _require_usable(name, args)
        before = snapshot(args)
        handed, originals = _with_own_states(args)
        result = function(*handed)
        if any(map(_is_deleted, jax.tree.leaves(args))):
            raise self.broken(f"`{name}` deleted (donated) an array of its arguments")
        changed = diff(_with_states(originals, handed), before)
        if changed:
            raise self.broken(
                f"`{name}` changed its arguments in place; a is after the call, b before", changed
            )
        if any(map(_is_traced, jax.tree.leaves(result))):
            raise self.broken(
                f"{name} keeps something of an earlier call, which it was traced in, outside of "
                "its arguments and its result, and returned it"
            )
        return result


def _is_traced(leaf: Any) -> bool:
    return isinstance(leaf, Tracer)


def _is_deleted(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and leaf.is_deleted()


def _require_usable(name: str, args: PyTree) -> None:
    """Refuses arguments that tell nothing of a function."""
    require_drawn(f"What `{name}` is called with", args)
    leaves = jax.tree.leaves(args)
    if any(map(_is_traced, leaves)):
        raise ArgumentTypeError(
            f"What `{name}` is called with is being traced: laws compare numbers, and inside of "
            "`jax.jit` and the like there are none. Call the law outside."
        )
    if any(map(_is_deleted, leaves)):
        raise ArgumentValueError(
            f"What `{name}` is called with has an array that was deleted (donated) before: hand in "
            "a copy, `jax.tree.map(jnp.copy, tree)`, made in time."
        )


def _is_state(node: Any) -> bool:
    return isinstance(node, eqx.nn.State)


_States = dict[int, eqx.nn.State]


def _with_own_states(tree: PyTree) -> tuple[PyTree, _States]:
    """The tree with a copy of each `eqx.nn.State`, which `set` uses up; and what was copied."""
    nodes, treedef = jax.tree.flatten(tree, is_leaf=_is_state)
    if not any(map(_is_state, nodes)):
        return tree, {}
    handed = [jax.tree.map(lambda leaf: leaf, node) if _is_state(node) else node for node in nodes]
    originals = {
        id(copy): node for copy, node in zip(handed, nodes, strict=True) if _is_state(node)
    }
    return jax.tree.unflatten(treedef, handed), originals


def _with_states(originals: _States, tree: PyTree) -> PyTree:
    """The tree with the originals in the place of their copies, which may be used up."""
    if not originals:
        return tree
    return jax.tree.map(
        lambda node: originals.get(id(node), node) if _is_state(node) else node,
        tree,
        is_leaf=_is_state,
    )


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
