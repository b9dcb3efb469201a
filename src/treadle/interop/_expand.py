"""Calling what wants a batch on one example."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .._errors import ArgumentValueError
from ..tree._paths import flatten_with_paths
from ._keys import is_key


def _is_array(leaf: Any) -> bool:
    # A key is nobody's example.
    return (eqx.is_array(leaf) and not is_key(leaf)) or isinstance(leaf, (np.ndarray, np.generic))


def expanded(tree: PyTree) -> PyTree:
    """Each array with an axis of length one in front."""
    return jax.tree.map(lambda leaf: leaf[None] if _is_array(leaf) else leaf, tree)


def squeezed(tree: PyTree, what: str) -> PyTree:
    """Each array without the axis of length one in front.

    Raises:
        ArgumentValueError: An array has none.
    """
    for path, leaf in flatten_with_paths(tree)[0]:
        if _is_array(leaf) and (leaf.ndim == 0 or leaf.shape[0] != 1):
            raise ArgumentValueError(
                f"What {what} returned has shape {leaf.shape} at {path!r}: with `per_example()` it "
                f"is given a batch of one, so its outputs must have an axis of length one in front."
            )
    return jax.tree.map(lambda leaf: leaf[0] if _is_array(leaf) else leaf, tree)
