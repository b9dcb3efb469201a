"""Many trees as one with a leading axis, and back."""

import abc
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from .._custom_types import Door
from .._errors import ArgumentTypeError, TreeError
from ._match import alike, mismatches, same_structure, some
from ._once import once
from ._paths import flatten_with_paths
from ._sized import is_sized


class Stacked(abc.ABC):
    """A node that knows itself how it is stacked: not every leaf of it has the leading axis."""

    @abc.abstractmethod
    def unstacked(self) -> list[Any]:
        """Its elements, one for each place on the leading axis."""

    @staticmethod
    @abc.abstractmethod
    def stacked(states: Sequence[Any]) -> Any:
        """Several of them as one."""


def stack(trees: Door[Sequence[PyTree]]) -> PyTree:
    """Trees of one structure as one tree whose arrays have a new leading axis.

    What `jax.vmap`, `eqx.filter_vmap(in_axes=eqx.if_array(0))` and a scan over layers want.
    Leaves that are not arrays (activation functions, rates) must be equal, and stay as they are.
    Of `jax.ShapeDtypeStruct`s the result is one with the new axis.
    Where all trees have a NumPy array, so has the result, which keeps its dtype and stays in host
    memory. An array that is several leaves of each is one array of the result. The states of single
    runs (`TrainState`) become that of an ensemble, whose `step` has no axis.

    Args:
        trees: At least one; their arrays agree in shape and dtype.

    Raises:
        TreeError: There is none, or they differ in structure, shapes, dtypes, or in a leaf that is
            not an array; or a NumPy array holds something else than numbers.
        ArgumentTypeError: `trees` is one tree, not a sequence of trees.

    Example:
        >>> model = treadle.tree.stack([make_model(key) for key in keys])
        >>> jax.vmap(lambda m, x: m(x), in_axes=(eqx.if_array(0), None))
    """
    if not isinstance(trees, (list, tuple)):
        raise ArgumentTypeError(
            f"`trees` is a {type(trees).__name__}: give a list of trees, `stack([first, second])`."
        )
    if not trees:
        raise TreeError("`trees` is empty: there is nothing to stack.")
    if all(isinstance(tree, Stacked) for tree in trees):
        return type(trees[0]).stacked(trees)
    first, treedef = flatten_with_paths(trees[0])
    for path, leaf in first:
        if isinstance(leaf, np.ndarray) and not _is_numeric(leaf.dtype):
            raise TreeError(
                f"The tree has an array of {leaf.dtype} at {path!r}, which JAX does not have: turn "
                f"it into numbers, or into a tuple, whose leaves must be equal in all trees."
            )
    columns: list[list[Any]] = [[leaf] for _, leaf in first]
    for index, tree in enumerate(trees[1:], start=1):
        leaves, structure = jax.tree.flatten(tree)
        fit = all(map(alike, (leaf for _, leaf in first), leaves))
        if not fit or not same_structure(structure, treedef):
            _require_alike(trees[0], tree, index)
        for column, leaf in zip(columns, leaves, strict=True):
            column.append(leaf)
    join = once(lambda *column: _stacked(column))
    return jax.tree.unflatten(treedef, [join(*column) for column in columns])


def _require_alike(first: PyTree, tree: PyTree, index: int) -> None:
    problems = mismatches(first, tree, ("the first", f"the tree at index {index}"))
    if problems:
        raise TreeError(
            f"The tree at index {index} does not fit the first, so they cannot be stacked: "
            f"{some(problems, 8, '; ')}."
        )


def _stacked(column: Sequence[Any]) -> Any:
    first = column[0]
    if not is_sized(first):
        return first
    if isinstance(first, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(column), *first.shape), first.dtype)
    # On the host, where JAX would narrow 64 bits to 32.
    on_host = all(isinstance(leaf, np.ndarray) for leaf in column)
    return np.stack(column) if on_host else _joined([jnp.asarray(leaf) for leaf in column])


def _joined(column: Sequence[jax.Array]) -> jax.Array:
    """The arrays along a new axis, with their bits.

    XLA joins bfloat16 and float8 on the CPU by way of wider formats, which turn a signalling NaN
    into a quiet one. Where a derivative may be wanted it has its way: carriers have none.
    """
    dtype = column[0].dtype
    traced = any(isinstance(leaf, Tracer) for leaf in column)
    if traced or not _is_widened(dtype):
        return jnp.stack(column)
    carrier = np.dtype(f"uint{8 * dtype.itemsize}")
    whole = jnp.stack([jax.lax.bitcast_convert_type(leaf, carrier) for leaf in column])
    return jax.lax.bitcast_convert_type(whole, dtype)


def _is_widened(dtype: Any) -> bool:
    """Whether it is a float of a byte or two that is not IEEE's own, and fills them."""
    if not jnp.issubdtype(dtype, jnp.floating) or dtype == jnp.float16:
        return False
    return dtype.itemsize <= 2 and jnp.finfo(dtype).bits == 8 * dtype.itemsize


def _is_numeric(dtype: np.dtype) -> bool:
    return dtype == np.bool_ or jnp.issubdtype(dtype, np.number)


def unstack(tree: PyTree) -> list[PyTree]:
    """The trees that `stack` made one of: one for each place on the arrays' leading axis.

    Raises:
        TreeError: There are no arrays, or they do not share a leading axis.

    Example:
        >>> best = treadle.tree.unstack(state)[int(np.argmin(losses))]
    """
    if isinstance(tree, Stacked):
        return tree.unstacked()
    named, treedef = flatten_with_paths(tree)
    sizes = {path: leaf.shape[0] if leaf.ndim else None for path, leaf in named if is_sized(leaf)}
    if not sizes:
        raise TreeError("`tree` has no arrays: there is no leading axis to unstack.")
    if len(set(sizes.values())) > 1 or None in sizes.values():
        raise TreeError(
            f"The arrays of `tree` do not share a leading axis ({_lengths(sizes)}): only what "
            f"`treadle.tree.stack` or `eqx.filter_vmap` stacked can be unstacked."
        )
    (size,) = set(sizes.values())
    assert size is not None
    leaves = [leaf for _, leaf in named]
    return [
        jax.tree.unflatten(treedef, list(map(once(functools.partial(_element, index)), leaves)))
        for index in range(size)
    ]


def _lengths(sizes: dict[str, int | None]) -> str:
    """The lengths that there are, with the first leaf of each."""
    firsts = {size: path for path, size in reversed(sizes.items())}
    return some((f"{path!r}: {size}" for size, path in reversed(firsts.items())), 8)


def _element(index: int, leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    if isinstance(leaf, np.ndarray):
        return leaf[index, ...]  # An array without axes too, where `leaf[index]` is none.
    return leaf[index] if is_sized(leaf) else leaf
