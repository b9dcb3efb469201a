"""Static fields by path, as text: what makes two models of the same arrays different ones."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..tree._diff import Outlined
from ..tree._paths import inside, opened
from ..tree._remember import remembered


def statics_of(tree: PyTree) -> dict[str, str]:
    """The static fields of a tree that are plain values, printed, by path.

    Plain are numbers, strings, booleans, `None`, dtypes, and tuples, lists and dictionaries of
    them. Functions and other objects print differently in the next process, and are left out.
    """
    return remembered(_found, jax.tree.structure(tree), tree)


def _found(tree: PyTree) -> dict[str, str]:
    found: dict[str, str] = {}
    _walk(tree, None, found)
    return found


def _walk(node: Any, path: str | None, found: dict[str, str]) -> None:
    if isinstance(node, Outlined):
        node = node.outline()
    opened_node = opened(node)
    children = opened_node.children
    if dataclasses.is_dataclass(node):
        for field in dataclasses.fields(node):
            value = getattr(node, field.name, None)
            if field.name not in children and _is_plain(value):
                found[inside(path, field.name)] = _printed(value)
    for name, child in children.items():
        _walk(child, inside(path, name, node), found)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    kinds = (bool, int, float, complex, str, bytes, np.dtype)
    return value is None or type(value) in kinds


def _printed(value: Any) -> str:
    return value.name if isinstance(value, np.dtype) else repr(value)
