"""How many numbers a tree holds, and how many bytes they take."""

from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ._where import Where, leaf_mask


def leaf_nbytes(leaf: Any) -> int:
    """The bytes of one array; a `ShapeDtypeStruct` has no `nbytes`."""
    return leaf.size * leaf.dtype.itemsize


def first_seen(leaves: list[Any]) -> list[int]:
    """For each leaf, where in the list the same array stands first; mostly its own index.

    A `jax.ShapeDtypeStruct` is no array yet: two leaves that are one and the same are two arrays
    to be.
    """
    first: dict[int, int] = {}
    return [
        at if isinstance(leaf, jax.ShapeDtypeStruct) else first.setdefault(id(leaf), at)
        for at, leaf in enumerate(leaves)
    ]


def _distinct(tree: PyTree, where: Where | None) -> list[Any]:
    """The arrays that `where` chooses, each once, however many leaves it is."""
    leaves = jax.tree.leaves(tree)
    if where is not None:
        mask = jax.tree.leaves(leaf_mask(where, tree))
        leaves = [leaf for leaf, yes in zip(leaves, mask, strict=True) if yes]
    arrays = {id(leaf): leaf for leaf in leaves if isinstance(leaf, (jax.Array, np.ndarray))}
    # A `jax.ShapeDtypeStruct` is no array yet: one at two places is two arrays to be.
    return [*arrays.values(), *(leaf for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct))]


def count(tree: PyTree, where: Where | None = None) -> int:
    """The number of elements in the arrays of `tree`; for a model, its parameters.

    Arrays are JAX's and NumPy's and whatever stands for them (`jax.ShapeDtypeStruct`, tracers).
    A typed key is one element. Anything else (functions, Python numbers) counts nothing. An
    array that is several leaves counts once.

    Args:
        tree: Any pytree.
        where: Which of them to count: a filter function such as `eqx.is_inexact_array`, a
            `treadle.tree.select(...)`, glob strings, or a pytree of bools that is a prefix of
            `tree`. All by default.

    Raises:
        TreeError: If a glob matches nothing, or a prefix does not fit.
        ArgumentTypeError: If `where` is none of what it can be.

    Example:
        >>> count({"w": jnp.zeros((2, 3)), "b": jnp.zeros(2)})
        8
    """
    return sum(leaf.size for leaf in _distinct(tree, where))


def nbytes(tree: PyTree, where: Where | None = None) -> int:
    """The bytes that the arrays of `tree` take, replicas on several devices not counted.

    Counted like `treadle.tree.count`; a typed key takes the bytes of its data.

    Args:
        tree: Any pytree.
        where: Which of them to count, as in `treadle.tree.count`.

    Raises:
        TreeError: If a glob matches nothing, or a prefix does not fit.
        ArgumentTypeError: If `where` is none of what it can be.

    Example:
        >>> nbytes(jnp.zeros((2, 3), jnp.bfloat16))
        12
    """
    return sum(leaf_nbytes(leaf) for leaf in _distinct(tree, where))
