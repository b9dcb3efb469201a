"""What the transformations are written with."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from treadle.testing import same_structure


def is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is a JAX array of numbers."""
    return isinstance(leaf, jax.Array) and not is_key(leaf)


def is_numpy(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray)


def is_float(leaf: Any) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_numpy_float(leaf: Any) -> bool:
    return is_numpy(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def is_integer(leaf: Any) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.integer)


def is_none(node: Any) -> bool:
    return node is None


def on(kind: Callable[[Any], bool], function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of trees: `function` on the leaves of a kind, nothing on the others."""
    return lambda tree: jax.tree.map(
        lambda leaf: function(leaf) if kind(leaf) else leaf, tree, is_leaf=is_none
    )


def nodes(kind: type, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of trees: `make` of each container of exactly that kind, the inner ones first."""

    def whole(node: Any) -> Any:
        def is_inner(other: Any) -> bool:
            return other is not node and type(other) is kind

        node = jax.tree.map(
            lambda leaf: whole(leaf) if type(leaf) is kind else leaf, node, is_leaf=is_inner
        )
        return make(node) if type(node) is kind else node

    return whole


@st.composite
def alike(draw: Any, trees: st.SearchStrategy[Any], count: int) -> tuple[Any, ...]:
    """So many trees that fit each other."""
    first = draw(trees)
    return (first, *(draw(same_structure(first)) for _ in range(count - 1)))
