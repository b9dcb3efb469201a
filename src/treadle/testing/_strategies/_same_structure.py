"""`same_structure`: a second tree that fits a first one."""

from typing import Any

import hypothesis.strategies as st
import jax
import numpy as np
from jaxtyping import PyTree

from .. import pool
from .._drawn import require_drawn
from ._array_code import is_key
from ._draw import Draw
from ._dtypes import is_number
from ._key_words import SEEDS, key_of, make_of
from ._limits import Limits, limits_of
from ._printed import remember
from ._values import FEW_CHANGES, MANY_CHANGES, Slot, draw_values
from ._written import as_written


def _is_array(leaf: Any) -> bool:
    """Whether a leaf gets other numbers."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic) and (
        is_key(leaf) or is_number(leaf.dtype)
    )


def _placed(host: np.ndarray, like: Any) -> Any:
    """The numbers as an array of the kind of another."""
    if isinstance(like, np.ndarray):
        return host
    if isinstance(like, np.generic):
        return host[()]
    made = pool.weak(host) if like.weak_type else jax.device_put(host)
    # An array that nobody placed stays so: a placed one would not mix with those elsewhere.
    return jax.device_put(made, like.sharding) if like.committed else made


@st.composite
def _same_structure(draw: Draw, tree: PyTree, limits: Limits) -> PyTree:
    leaves, treedef = jax.tree.flatten(tree)
    # An array that stands at two places is one array in the other tree too.
    arrays = {id(leaf): leaf for leaf in leaves if _is_array(leaf)}
    plain = {name: leaf for name, leaf in arrays.items() if not is_key(leaf)}
    slots = [Slot(leaf.shape, np.dtype(leaf.dtype), limits) for leaf in plain.values()]
    values = draw_values(draw, slots, MANY_CHANGES if limits.is_special else FEW_CHANGES)
    others: dict[int, Any] = {
        name: _placed(value, leaf)
        for (name, leaf), value in zip(plain.items(), values, strict=True)
    }
    for name, leaf in arrays.items():
        if name not in plain:
            others[name] = key_of(draw(SEEDS), leaf.shape, *make_of(leaf))
    filled = [others.get(id(leaf), leaf) for leaf in leaves]
    return remember(jax.tree.unflatten(treedef, filled))


def same_structure(tree: PyTree, *, special: bool = False) -> st.SearchStrategy[PyTree]:
    """Trees that fit `tree`: the same structure, shapes, dtypes and weak types, other numbers.

    NumPy arrays stay NumPy arrays, keys stay keys of their implementation, an array that stands at
    two places is one array again, and one that was placed (a sharding) is placed likewise. Leaves
    that are not arrays are the very same. What fails shrinks to zeros.

    Args:
        tree: Any pytree, such as a model, an optimizer's state, a `TrainState`.
        special: NaN, infinities, subnormal numbers and -0.0 among the numbers.

    Raises:
        ArgumentTypeError: `tree` is a strategy, or holds one.

    Example:
        >>> @given(st.data())
        ... def test_my_sum_commutes(data):
        ...     a = data.draw(modules(floats_only=True))
        ...     b = data.draw(same_structure(a))
        ...     assert not treadle.tree.diff(my_sum(a, b), my_sum(b, a))
    """
    require_drawn("`tree`", tree)
    return as_written(same_structure, locals(), _same_structure(tree, limits_of(special)))
