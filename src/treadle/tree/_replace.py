"""Other values in some places of a tree."""

import dataclasses
import difflib
import itertools
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from .._custom_types import Door
from .._errors import ArgumentTypeError, TreeError
from ._match import some
from ._paths import NamedLeaves, inside, opened, paths_of_structure
from ._remember import remembered


def replace(tree: PyTree, values: Door[Mapping[str, Any]]) -> PyTree:
    """`tree` with other values at some paths; the rest is the very same objects.

    With `treadle.tree.to_dict` it is a lens: what was put in place is found there,
    `to_dict(replace(tree, {p: v}))[p]` is `v`; putting back what is there changes nothing; of two
    replacements of one place the second counts.

    A path may be that of a leaf, of a whole part (`"layers/0"`), or of a `None`. The new value may
    be anything: an array of another shape, a module, `None`. Of a leaf that stands at several
    places (tied weights) only the one that is named is replaced. Of a `TrainState` single leaves
    can be replaced; its views are with `state.replace`. Of what `treadle.tree.tie` made single
    leaves can be replaced, too; parts of it between `treadle.tree.untie` and a new `tie`.

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
    _require_paths(values)
    leaves, treedef = jax.tree.flatten(tree)
    places = remembered(_places, treedef, tree)
    parts: dict[str, Any] = {}
    for path, value in values.items():
        if path in places:
            leaves[places[path]] = value
        else:
            parts[path] = value
    if parts:
        _refuse_overlaps(list(values))
    replaced = jax.tree.unflatten(treedef, leaves) if len(parts) < len(values) else tree
    for path, value in parts.items():
        replaced = _with_part(replaced, None, path, value, list(places))
    return replaced


def _require_paths(values: Any) -> None:
    if not isinstance(values, Mapping):
        raise ArgumentTypeError(
            f"`values` is a {type(values).__name__}: give a dictionary from path to value, such as "
            "{'layers/0/bias': jnp.zeros(8)}."
        )
    for path in values:
        if not isinstance(path, str):
            raise ArgumentTypeError(
                f"`values` has the key {path!r}: give paths as strings, as `treadle.tree.paths` "
                "writes them."
            )


def _places(tree: PyTree) -> dict[str, int]:
    found = paths_of_structure(jax.tree.structure(tree), tree)
    return {path: at for at, path in enumerate(found)}


def _refuse_overlaps(chosen: list[str]) -> None:
    ordered = sorted(chosen, key=lambda path: path.split("/"))
    for outer, inner in itertools.pairwise(ordered):
        if outer == "" or inner.startswith(f"{outer}/"):
            raise TreeError(
                f"`values` has both {outer!r} and {inner!r}, which lies inside: replace one of "
                "them, or put the inner value into the outer one first."
            )


def _with_part(node: PyTree, at: str | None, path: str, value: Any, known: list[str]) -> PyTree:
    """`node`, which stands at `at`, with `value` in the place of the part, or `None`, at `path`."""
    if at is None and path == "":
        return value
    level = opened(node)
    for index, (name, child) in enumerate(level.children.items()):
        here = inside(at, name)
        if path == here or path.startswith(f"{here}/"):
            found = path == here
            children = list(level.children.values())
            children[index] = value if found else _with_part(child, here, path, value, known)
            return jax.tree.unflatten(level.treedef, children)
    raise TreeError(f"`tree` has no path {path!r}. {_hint(node, at, path, known)}")


def _hint(node: PyTree, at: str | None, path: str, known: list[str]) -> str:
    """What may have been meant by a path that ends at a node."""
    children = opened(node).children
    if not children:
        place = "the tree" if at is None else repr(at)
        return f"There is nothing inside of {place} (of type {type(node).__name__})."
    within = [other for other in known if at is None or other.startswith(f"{at}/")]
    within = within or [inside(at, name) for name in children]
    way_out = ""
    if isinstance(node, NamedLeaves):
        way_out = f" {node.way_out()}"
        below = [repr(other) for other in within if other.startswith(f"{path}/")]
        if below:
            kind = type(node).__name__
            return f"Of a {kind} only single leaves can be replaced: {some(below)}.{way_out}"
    name = path if at is None else path[len(at) + 1 :]
    if dataclasses.is_dataclass(node) and name in {
        field.name for field in dataclasses.fields(node)
    }:
        return f"{name!r} is a static field, which is no leaf: make the {type(node).__name__} anew."
    near = difflib.get_close_matches(path, within, cutoff=0.3) or within[:3]
    return f"The nearest are {', '.join(map(repr, near))}.{way_out}"
