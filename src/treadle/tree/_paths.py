"""Readable names for the leaves of any pytree: `"layers/0/weight"`."""

import abc
from typing import Any

import jax
import jax.tree_util as jtu
from jaxtyping import PyTree


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


def _segment(entry: Any) -> str:
    if isinstance(entry, jtu.GetAttrKey):
        return escape(entry.name)
    if isinstance(entry, jtu.SequenceKey):
        return str(entry.idx)
    if isinstance(entry, (jtu.DictKey, jtu.FlattenedIndexKey)):
        return escape(str(entry.key))
    return escape(str(entry))


def path_of(entries: tuple[Any, ...]) -> str:
    """JAX's key path as one string."""
    return "/".join(_segment(entry) for entry in entries)


def _is_named(node: Any) -> bool:
    return isinstance(node, NamedLeaves)


def flatten_with_paths(tree: PyTree) -> tuple[list[tuple[str, Any]], Any]:
    """The leaves of `tree` with their paths, and its structure.

    Returns:
        `(path, leaf)` for every leaf, in the order of `jax.tree.leaves`, and the treedef of
        `jax.tree.structure`.
    """
    entries, _ = jtu.tree_flatten_with_path(tree, is_leaf=_is_named)
    named: list[tuple[str, Any]] = []
    for keys, node in entries:
        path = path_of(keys)
        if isinstance(node, NamedLeaves):
            leaves = jax.tree.leaves(node)
            named += [
                (join(path, inner), leaf)
                for inner, leaf in zip(node.leaf_paths(), leaves, strict=True)
            ]
        else:
            named.append((path, node))
    return named, jax.tree.structure(tree)


def paths(tree: PyTree) -> list[str]:
    """The path of every leaf, in the order of `jax.tree.leaves(tree)`.

    Attributes, dictionary keys and indices are joined by `/`; `~` and `/` inside a name are
    written `~0` and `~1`, as in JSON Pointer (RFC 6901). A bare leaf has the path `""`.

    Example:
        >>> paths({"w": [1, 2], "b": 3})
        ['b', 'w/0', 'w/1']
    """
    return [path for path, _ in flatten_with_paths(tree)[0]]
