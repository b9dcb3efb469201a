"""The same array at two places of a tree."""

import collections
from typing import Any

import hypothesis.strategies as st
import jax
import numpy as np
from jaxtyping import PyTree

from ._draw import Draw

_CHANCE = st.integers(0, 2)
"""A third of the trees in which two arrays could be one; the least number means none."""


def _make(leaf: Any) -> Any:
    """What two arrays agree in that could be one; `None` for what is no array."""
    if not isinstance(leaf, jax.Array | np.ndarray):
        return None
    return type(leaf), leaf.shape, leaf.dtype, getattr(leaf, "weak_type", None)


def draw_shared(draw: Draw, tree: PyTree) -> PyTree:
    """The tree, in which two arrays of one shape and dtype may have become the same one."""
    leaves, treedef = jax.tree.flatten(tree)
    places: dict[Any, list[int]] = collections.defaultdict(list)
    for at, leaf in enumerate(leaves):
        make = _make(leaf)
        if make is not None:
            places[make].append(at)
    groups = [group for group in places.values() if len(group) > 1]
    if not groups or draw(_CHANCE) != 2:
        return tree
    group = draw(st.sampled_from(groups))
    first, *others = group
    leaves[draw(st.sampled_from(others))] = leaves[first]
    return jax.tree.unflatten(treedef, leaves)
