"""A tree as a flat dictionary from path to leaf, and back."""

import difflib
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from .._custom_types import Door
from .._errors import ArgumentTypeError, TreeError
from ._match import some, told
from ._paths import paths_of_structure
from ._sized import is_sized

_TOLD = 8


def to_dict(tree: PyTree) -> dict[str, Any]:
    """The leaves of `tree` by their paths, as `{"layers/0/weight": array, ...}`.

    In the order of `jax.tree.leaves`. Leaves are handed out as they are, not copied.

    Example:
        >>> to_dict({"w": [1, 2], "b": 3})
        {'b': 3, 'w/0': 1, 'w/1': 2}
    """
    leaves, treedef = jax.tree.flatten(tree)
    return dict(zip(paths_of_structure(treedef, tree), leaves, strict=True))


def from_dict(values: Door[Mapping[str, Any]], like: PyTree) -> PyTree:
    """The tree of the structure of `like` whose leaves are `values`.

    The inverse of `to_dict`: `from_dict(to_dict(tree), tree)` is `tree`. What a leaf is counts in
    `like` as far as arrays have shapes; dtypes and other leaves may be of any kind.

    Args:
        values: A leaf for each path of `like`, no more and no less, in any order.
        like: A tree of the structure that is wanted. Its leaves may be `jax.ShapeDtypeStruct`s.

    Raises:
        TreeError: Names are missing or unexpected, or an array has another shape than in `like`:
            all of them at once, with the nearest name.
        ArgumentTypeError: `values` is not a dictionary.

    Example:
        >>> flat = treadle.tree.to_dict(model)
        >>> flat["layers/0/weight"] = trained
        >>> model = treadle.tree.from_dict(flat, model)
    """
    if not isinstance(values, Mapping):
        raise ArgumentTypeError(
            f"`values` is a {type(values).__name__}: give a dictionary from path to leaf, as "
            "`treadle.tree.to_dict(tree)` makes it."
        )
    leaves, treedef = jax.tree.flatten(like)
    names = paths_of_structure(treedef, like)
    if values.keys() != set(names):
        raise TreeError(_misnamed(values, names))
    filled = [values[name] for name in names]
    wrong = [
        f"{name!r} is {told(new)}, and {told(old)} in `like`"
        for name, old, new in zip(names, leaves, filled, strict=True)
        # First what is quick, and nearly always the same.
        if getattr(old, "shape", None) != getattr(new, "shape", None)
        and is_sized(old)
        and is_sized(new)
    ]
    if wrong:
        raise TreeError(f"`values` does not fit `like`: {some(wrong, _TOLD)}.")
    return jax.tree.unflatten(treedef, filled)


def _misnamed(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    known = set(names)
    missing = [name for name in names if name not in values]
    unexpected = [name for name in values if name not in known]
    lines = []
    for word, strays, candidates in (
        ("missing", missing, unexpected),
        ("unexpected", unexpected, missing),
    ):
        if strays:
            # Looking for the nearest of thousands of names would take minutes.
            near = [_near(name, candidates[:200]) for name in strays[:_TOLD]]
            lines.append(f"{word} {some([*near, *strays[_TOLD:]], _TOLD)}")
    return f"`values` does not have the names of `like`: {'; '.join(lines)}."


def _near(name: Any, candidates: list[Any]) -> str:
    texts = [text for text in candidates if isinstance(text, str)]
    near = difflib.get_close_matches(name, texts, n=1) if isinstance(name, str) else []
    return f"{name!r} (there is {near[0]!r})" if near else repr(name)
