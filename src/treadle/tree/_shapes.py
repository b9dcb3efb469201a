"""A tree's shapes and dtypes without its numbers."""

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree


def shapes(tree: PyTree) -> PyTree:
    """`tree` with a `jax.ShapeDtypeStruct` in the place of each array, JAX's and NumPy's.

    Other leaves stay. Structures made of it can stand where only shapes count: `like` of
    `treadle.load` and `treadle.tree.from_dict`, `TrainStep.compile`, `jax.eval_shape`. Sharding and
    weak types are not told (`treadle.tree.diff` does).

    Example:
        >>> shapes({"w": jnp.zeros((2, 3)), "rate": 0.1})
        {'rate': 0.1, 'w': ShapeDtypeStruct(shape=(2, 3), dtype=float32)}
    """
    return jax.tree.map(_shape, tree)


@functools.lru_cache(maxsize=4096)  # A model has few kinds of arrays, however many arrays.
def _struct(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _shape(leaf: Any) -> Any:
    if isinstance(leaf, (jax.Array, np.ndarray)):
        return _struct(leaf.shape, leaf.dtype)
    return leaf
