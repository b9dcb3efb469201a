"""Rows that can be taken by number: what a batch is made of."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Int, PyTree

from .._checks import foreign_to_jax
from .._custom_types import Batch
from .._errors import ArgumentTypeError, DataError
from ..tree._paths import flatten_with_paths

Index: TypeAlias = slice | Int[np.ndarray, " batch"]
"""Which rows: a slice with both ends, or their numbers."""


@runtime_checkable
class Rows(Protocol):
    """Examples, each with a number."""

    @property
    def num_examples(self) -> int:
        """How many there are."""
        ...

    def take(self, index: Index) -> Batch:
        """Some of them as a batch, in memory of its own."""
        ...

    def spec(self, size: int) -> PyTree[jax.ShapeDtypeStruct]:
        """A batch of that many as shapes and dtypes."""
        ...


@jax.jit
def _gather(leaves: list[Array], rows: Int[Array, " batch"]) -> list[Array]:
    return [leaf[rows] for leaf in leaves]


class ArrayRows:
    """The rows of a pytree of arrays: NumPy's are gathered on the host, JAX's on their device.

    Args:
        tree: The arrays.

    Raises:
        ArgumentTypeError, DataError: It is no pytree of arrays with the same leading size.
    """

    def __init__(self, tree: PyTree):
        named, self._treedef = flatten_with_paths(tree)
        self.num_examples = _leading_size(named)
        # A base-class view of a memory map (or of another subclass): gathers give plain arrays.
        self._leaves = [np.asarray(x) if isinstance(x, np.ndarray) else x for _, x in named]
        places = list(enumerate(self._leaves))
        self._on_device = [at for at, leaf in places if isinstance(leaf, jax.Array)]
        self._on_host = [at for at, leaf in places if not isinstance(leaf, jax.Array)]

    def take(self, index: Index) -> Batch:
        """Rows as a batch."""
        out = list(self._leaves)
        for at in self._on_host:
            leaf = self._leaves[at]
            # The slice is copied, for a view would let who writes into a batch change the data.
            in_order = isinstance(index, slice)
            out[at] = leaf[index].copy() if in_order else np.take(leaf, index, axis=0)
        if self._on_device:
            # Also where the order is the arrays' own: a slice compiles anew for each start.
            where = np.arange(index.start, index.stop) if isinstance(index, slice) else index
            leaves = [self._leaves[at] for at in self._on_device]
            for at, leaf in zip(
                self._on_device, _gather(leaves, where.astype(np.int32)), strict=True
            ):
                out[at] = leaf
        return jtu.tree_unflatten(self._treedef, out)

    def spec(self, size: int) -> PyTree[jax.ShapeDtypeStruct]:
        """A batch of that many as shapes and dtypes."""
        structs = [jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for x in self._leaves]
        return jtu.tree_unflatten(self._treedef, structs)


def _leading_size(named: Sequence[tuple[str, Any]]) -> int:
    """The number of examples, agreed on by every leaf."""
    if not named:
        raise DataError("`tree` has no leaves: give it at least one array of examples.")
    for path, leaf in named:
        if not isinstance(leaf, (jax.Array, np.ndarray)) or isinstance(leaf, np.ma.MaskedArray):
            raise ArgumentTypeError(
                f"`tree` has a leaf {_named(path)} of type {type(leaf).__name__}: every leaf must "
                "be a NumPy or JAX array with one row for each example, such as `np.asarray(x)`."
            )
        # Text may come along: whoever takes the batches may drop it.
        known = not isinstance(leaf, np.ndarray) or leaf.dtype.kind in "OSUMm"
        advice = None if known else foreign_to_jax(leaf.dtype)
        if advice is not None:
            raise ArgumentTypeError(
                f"`tree` has a leaf {_named(path)} of {leaf.dtype!r}, which JAX does not have: "
                f"{advice}."
            )
        if leaf.ndim == 0:
            raise DataError(
                f"`tree` has a leaf {_named(path)} without axes (={leaf!r}): every leaf must have "
                "one row for each example. What is the same for all goes through a step's `args`."
            )
    sizes = {path: leaf.shape[0] for path, leaf in named}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{_named(path)}: {size}" for path, size in sizes.items())
        raise DataError(
            f"The leaves of `tree` must have as many rows as one another, one for each example, "
            f"and have {told}."
        )
    size = next(iter(sizes.values()))
    if size == 0:
        raise DataError(f"`tree` has no examples: its leaf {_named(named[0][0])} has 0 rows.")
    return size


def _named(path: str) -> str:
    return f"`{path}`" if path else "(`tree` itself)"
