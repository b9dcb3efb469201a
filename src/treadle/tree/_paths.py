"""Readable names for the leaves of any pytree: `"layers/0/weight"`."""

import abc
import collections
import decimal
import math
import numbers
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from ._remember import remembered


class NamedLeaves(abc.ABC):
    """A pytree node that names its own leaves, where its flattened form would hide them."""

    @abc.abstractmethod
    def leaf_paths(self) -> tuple[str, ...]:
        """One path per leaf, in the order in which the node flattens."""

    @abc.abstractmethod
    def way_out(self) -> str:
        """A sentence on how more than a leaf of it is replaced, for messages."""


def escape(name: str) -> str:
    """`name` as one segment of a path: `~` is written `~0` and `/` is written `~1` (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def join(*segments: str) -> str:
    """Paths joined by `/`, the empty path (the root) left out."""
    return "/".join(segment for segment in segments if segment)


def _plain(key: Any) -> Any:
    """A dictionary's key as one that prints the same as any key that is equal to it.

    As 1, 1.0 and `True` are. Equal keys make equal structures, and these have the same paths.
    """
    if isinstance(key, str):
        return str.__str__(key)  # Of an enumeration's member its value, to which it is equal.
    if isinstance(key, tuple):
        return tuple(map(_plain, key))
    if isinstance(key, (numbers.Integral, np.bool_)):
        return int(key)
    if isinstance(key, (numbers.Real, decimal.Decimal)) and key == key and abs(key) != math.inf:
        return _plain_fraction(key)
    return key


def _plain_fraction(key: Any) -> Any:
    whole = math.floor(key)
    if whole == key:
        return whole
    is_float = abs(whole) < sys.float_info.max and float(key) == key
    return float(key) if is_float else key


def _segment(entry: Any) -> str:
    kind = type(entry)
    if kind is jtu.SequenceKey:
        return str(entry.idx)
    if kind is jtu.GetAttrKey:
        return escape(entry.name)
    if kind is jtu.DictKey or kind is jtu.FlattenedIndexKey:
        key = entry.key
        return escape(key if type(key) is str else str(_plain(key)))
    return escape(str(entry))


def path_of(entries: tuple[Any, ...]) -> str:
    """JAX's key path as one string."""
    return "/".join([_segment(entry) for entry in entries])


def _numbered(names: list[str]) -> list[str]:
    """Names made unique: the second of a name ends in `~2`, which no escaped name does."""
    if len(set(names)) == len(names):
        return names
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}~{seen[name]}")
    return unique


class Node(NamedTuple):
    """One node of a tree, opened by one level.

    Attributes:
        kind: The type of a container, that of `None` for `None`; `None` for a leaf.
        data: What a container keeps beside its children.
        children: What is inside, by name. A `None` is a child like any other.
        treedef: Puts the children together again.
    """

    kind: type | None
    data: Any
    children: dict[str, Any]
    treedef: Any


def _children(node: PyTree) -> tuple[dict[str, Any], Any]:
    """What is right below a container, by name, and the structure that holds it."""
    if isinstance(node, NamedLeaves):
        children, treedef = jax.tree.flatten(node)
        names = list(node.leaf_paths())
    else:
        entries, treedef = jtu.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)
        names = [_segment(key) for (key,), _ in entries]
        children = [child for _, child in entries]
    return dict(zip(_numbered(names), children, strict=True)), treedef


def opened(node: PyTree) -> Node:
    """A node by one level; the leaves of one that names its leaves."""
    if jtu.all_leaves((node,)):
        return Node(None, None, {}, jax.tree.structure(node))
    children, treedef = _children(node)
    kind, data = treedef.node_data()
    return Node(kind, data, children, treedef)


def keys_of(node: Node) -> Sequence[Any]:
    """The keys of a dictionary, in the order of its children; nothing else has any."""
    if node.kind is collections.defaultdict:
        return node.data[1]
    return node.data if node.kind in (dict, collections.OrderedDict) else ()


def inside(path: str | None, name: str, node: PyTree = None) -> str:
    """The path of a child.

    Args:
        path: Of the node; `None` for the whole tree, which no child of the name `""` is.
        name: Of the child.
        node: The node. One that names its leaves may have one that goes by the node's own path.
    """
    if isinstance(node, NamedLeaves) and not name:
        return path or ""
    return name if path is None else f"{path}/{name}"


def _below(node: PyTree, path: str | None, found: list[str]) -> None:
    names_leaves = isinstance(node, NamedLeaves)
    before = "" if path is None else f"{path}/"
    for name, child in _children(node)[0].items():
        where = inside(path, name, node) if names_leaves else before + name
        if jtu.all_leaves((child,)):
            found.append(where)
        else:
            _below(child, where, found)


def _found(tree: PyTree) -> tuple[str, ...]:
    if jtu.all_leaves((tree,)):
        return ("",)
    found: list[str] = []
    _below(tree, None, found)
    return tuple(found)


def paths_of_structure(treedef: Any, tree: PyTree) -> tuple[str, ...]:
    """The paths of `tree`, whose structure is `treedef`: found once for each structure."""
    return remembered(_found, treedef, tree)


def flatten_with_paths(tree: PyTree) -> tuple[list[tuple[str, Any]], Any]:
    """The leaves of `tree` with their paths, and its structure.

    Returns:
        `(path, leaf)` for every leaf, in the order of `jax.tree.leaves`, and the treedef of
        `jax.tree.structure`.
    """
    leaves, treedef = jax.tree.flatten(tree)
    return list(zip(paths_of_structure(treedef, tree), leaves, strict=True)), treedef


def paths(tree: PyTree) -> list[str]:
    """The path of every leaf, in the order of `jax.tree.leaves(tree)`.

    Attributes, dictionary keys and indices are joined by `/`; `~` and `/` inside a name are
    written `~0` and `~1`, as in JSON Pointer (RFC 6901). A bare leaf has the path `""`. No two
    leaves share a path: where two names are written alike (the keys `1` and `"1"` of an
    `OrderedDict`) the second ends in `~2`. Trees of one structure have the same paths.

    Example:
        >>> paths({"w": [1, 2], "b": 3})
        ['b', 'w/0', 'w/1']
    """
    return list(paths_of_structure(jax.tree.structure(tree), tree))
