"""One way to say which leaves are meant, whatever form it is said in."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jaxtyping import PyTree

from .._errors import ArgumentTypeError, TreeError
from ._select import Selector, select

Where: TypeAlias = Callable[[Any], bool] | Selector | str | tuple[str, ...] | list[str] | PyTree
"""A filter function on leaves, a selector, globs, or a prefix of the tree with bools as leaves."""


def leaf_mask(where: Where, tree: PyTree, name: str = "where") -> PyTree[bool]:
    """A pytree of the structure of `tree`: `True` where `where` chooses the leaf.

    Args:
        where: Which leaves.
        tree: Any pytree.
        name: What the caller calls `where`, for the message.

    Raises:
        TreeError: If a glob matches nothing, or a prefix does not fit.
        ArgumentTypeError: If `where` is none of what it can be.
    """
    if isinstance(where, str):
        where = (where,)
    if isinstance(where, tuple | list) and where and all(isinstance(g, str) for g in where):
        where = select(*where)
    if isinstance(where, Selector):
        return where(tree)
    # A model-shaped pytree of bools may be callable too, so a function is what is a leaf itself.
    if callable(where) and jax.tree_util.all_leaves([where]):
        return jax.tree.map(lambda leaf: bool(where(leaf)), tree)
    return _broadcast_prefix(where, tree, name)


def _broadcast_prefix(prefix: PyTree, tree: PyTree, name: str) -> PyTree[bool]:
    strange = [leaf for leaf in jax.tree.leaves(prefix) if not isinstance(leaf, bool)]
    if strange:
        raise ArgumentTypeError(
            f"`{name}` holds {strange[0]!r}: give a filter function on leaves, a pytree of bools, "
            "`treadle.tree.select(...)`, or glob strings such as 'layers/0/**'."
        )
    try:
        return jax.tree.map(lambda yes, part: jax.tree.map(lambda _: yes, part), prefix, tree)
    except ValueError as error:
        raise TreeError(
            f"`{name}` is a pytree of bools that does not fit the tree: {error}"
        ) from error
