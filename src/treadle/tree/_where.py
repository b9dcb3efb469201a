"""One way to say which leaves are meant, whatever form it is said in."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import PyTree

from .._errors import ArgumentTypeError, TreeError
from ._match import told
from ._select import Selector, select

Where: TypeAlias = Callable[[Any], bool] | Selector | str | tuple[str, ...] | list[str] | PyTree
"""A filter function on leaves, a selector, globs, or a prefix of the tree with bools as leaves."""


_WAYS = (
    "give a filter function on leaves, a pytree of bools, `treadle.tree.select(...)`, or glob "
    "strings such as 'layers/0/**'."
)


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
        return jax.tree.map(lambda leaf: _answer(where, leaf, name), tree)
    return _broadcast_prefix(where, tree, name)


def _answer(where: Callable[[Any], Any], leaf: Any, name: str) -> bool:
    try:
        return bool(where(leaf))
    except Exception as error:
        error.add_note(
            f"`{name}` is a function, so it is called on every leaf, here on {told(leaf)}, and "
            f"returns whether that is chosen. Parts of a tree are chosen by their paths: "
            f"`{name}='layers/0/**'`."
        )
        raise


def _broadcast_prefix(prefix: PyTree, tree: PyTree, name: str) -> PyTree[bool]:
    found = jax.tree.leaves(prefix)
    for strange in found:
        if isinstance(strange, Selector):
            raise ArgumentTypeError(
                f"`{name}` holds a selector inside of a {type(prefix).__name__}: combine selectors "
                "with `&`, `|` and `~`, `select('layers/**') | select('**/bias')`, and hand over "
                "what comes out."
            )
        if not isinstance(strange, bool | np.bool_):
            raise ArgumentTypeError(f"`{name}` holds {strange!r}: {_WAYS}")
    if not found and jax.tree.leaves(tree):
        raise TreeError(f"`{name}` (={prefix!r}) holds nothing that chooses: {_WAYS}")
    try:
        return jax.tree.map(lambda yes, part: jax.tree.map(lambda _: bool(yes), part), prefix, tree)
    except ValueError as error:
        raise TreeError(
            f"`{name}` is a pytree of bools that does not fit the tree: {error}"
        ) from error
