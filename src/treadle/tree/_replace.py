"""Other values in some places of a tree."""

import difflib
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._custom_types import Door
from .._errors import ArgumentTypeError, TreeError
from ._paths import NamedLeaves, path_of, paths_of_structure
from ._remember import remembered


def replace(tree: PyTree, values: Door[Mapping[str, Any]]) -> PyTree:
    """`tree` with other values at some paths; the rest is the very same objects.

    With `treadle.tree.to_dict` it is a lens: what was put in place is found there,
    `to_dict(replace(tree, {p: v}))[p]` is `v`; putting back what is there changes nothing; of two
    replacements of one place the second counts.

    A path may be that of a leaf, of a whole part (`"layers/0"`), or of a `None`. The new value may
    be anything: an array of another shape, a module, `None`. Of a leaf that stands at several
    places (tied weights) only the one that is named is replaced.

    Args:
        tree: Any pytree.
        values: Paths, as `treadle.tree.paths` has them, to what is to stand there.

    Raises:
        TreeError: A path is not in `tree` (with the nearest that are), or one of the paths lies
            inside another.
        ArgumentTypeError: `values` is not a dictionary from path to value.

    Example:
        >>> model = treadle.tree.replace(model, {"layers/0/bias": jnp.zeros(8)})
    """
    if not isinstance(values, Mapping) or not all(isinstance(path, str) for path in values):
        raise ArgumentTypeError(
            f"`values` (={values!r}) must be a dictionary from path to value, such as "
            "{'layers/0/bias': jnp.zeros(8)}."
        )
    leaves, treedef = jax.tree.flatten(tree)
    places = remembered("places", treedef, lambda: _places(treedef, tree))
    parts: dict[str, Any] = {}
    for path, value in values.items():
        if path in places:
            leaves[places[path]] = value
        else:
            parts[path] = value
    if parts:
        _refuse_overlaps(list(values))
    tree = jax.tree.unflatten(treedef, leaves) if len(parts) < len(values) else tree
    for path, value in parts.items():
        tree = _with_part(tree, path, value, path)
    return tree


def _places(treedef: Any, tree: PyTree) -> dict[str, int]:
    return {path: at for at, path in enumerate(paths_of_structure(treedef, tree))}


def _refuse_overlaps(chosen: list[str]) -> None:
    ordered = sorted(chosen, key=lambda path: path.split("/"))
    for outer, inner in itertools.pairwise(ordered):
        if outer == "" or inner.startswith(f"{outer}/"):
            raise TreeError(
                f"`values` has both {outer!r} and {inner!r}, which lies inside: replace one of "
                "them, or put the inner value into the outer one first."
            )


def _with_part(node: PyTree, path: str, value: Any, whole: str) -> PyTree:
    """`node` with `value` in the place of the part, or `None`, that `path` leads to."""
    if path == "":
        return value
    if isinstance(node, NamedLeaves):
        raise TreeError(_unknown(node, path, whole))
    # One level deep, where a `None` is a child like any other.
    children, treedef = jtu.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)
    names = [path_of(keys) for keys, _ in children]
    for at, name in enumerate(names):
        if path == name or path.startswith(f"{name}/"):
            parts = [child for _, child in children]
            parts[at] = _with_part(parts[at], path[len(name) + 1 :], value, whole)
            return jax.tree.unflatten(treedef, parts)
    raise TreeError(_unknown(node, path, whole))


def _unknown(node: PyTree, path: str, whole: str) -> str:
    above = whole[: len(whole) - len(path)]
    inside = [above + inner for inner in paths_of_structure(jax.tree.structure(node), node)]
    near = difflib.get_close_matches(whole, inside, n=3, cutoff=0.3) or inside[:3]
    hint = f"The nearest are {', '.join(map(repr, near))}." if near else "There is nothing inside."
    return (
        f"`tree` has no path {whole!r}. {hint} (A static field is no leaf: change it with "
        "`dataclasses.replace`.)"
    )
