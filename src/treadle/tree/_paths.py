"""Readable names for the leaves of any pytree: `"layers/0/weight"`."""

import abc
import math
import numbers
from typing import Any

import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from ._remember import remembered


class NamedLeaves(abc.ABC):
    """A pytree node that names its own leaves, where its flattened form would hide them."""

    @abc.abstractmethod
    def leaf_paths(self) -> tuple[str, ...]:
        """One path per leaf, in the order in which the node flattens."""


def escape(name: str) -> str:
    """`name` as one segment of a path: `~` is written `~0` and `/` is written `~1` (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def join(*segments: str) -> str:
    """Paths joined by `/`, the empty path (the root) left out."""
    return "/".join(segment for segment in segments if segment)


def _of_key(key: Any) -> str:
    """The text of a dictionary's key: the same for keys that are equal, as 1, 1.0 and `True` are.

    Equal keys make equal structures, and a structure has one set of paths.
    """
    if isinstance(key, str):
        return escape(
            str.__str__(key)
        )  # Of an enumeration's member its value, to which it is equal.
    if isinstance(key, numbers.Real) and key == key and abs(key) != float("inf"):
        whole = math.floor(key)
        return str(whole) if whole == key else escape(str(key))
    return escape(str(key))


def _segment(entry: Any) -> str:
    if isinstance(entry, jtu.GetAttrKey):
        return escape(entry.name)
    if isinstance(entry, jtu.SequenceKey):
        return str(entry.idx)
    if isinstance(entry, (jtu.DictKey, jtu.FlattenedIndexKey)):
        return _of_key(entry.key)
    return escape(str(entry))


def path_of(entries: tuple[Any, ...]) -> str:
    """JAX's key path as one string."""
    return "/".join([_segment(entry) for entry in entries])


def is_named(node: Any) -> bool:
    """Whether a node names its own leaves."""
    return isinstance(node, NamedLeaves)


def numbered(names: list[str]) -> tuple[str, ...]:
    """Names made unique: the second leaf of a name ends in `~2`, which no escaped name does."""
    if len(set(names)) == len(names):
        return tuple(names)
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}~{seen[name]}")
    return tuple(unique)


def _found(tree: PyTree) -> tuple[str, ...]:
    names: list[str] = []
    for keys, node in jtu.tree_flatten_with_path(tree, is_leaf=is_named)[0]:
        path = path_of(keys)
        if isinstance(node, NamedLeaves):
            names += [join(path, inner) for inner in node.leaf_paths()]
        else:
            names.append(path)
    return numbered(names)


def paths_of_structure(treedef: Any, tree: PyTree) -> tuple[str, ...]:
    """The paths of `tree`, whose structure is `treedef`: found once for each structure."""
    return remembered("paths", treedef, lambda: _found(tree))


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
