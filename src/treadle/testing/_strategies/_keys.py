"""`keys`: typed keys of every implementation."""

from typing import Any

import hypothesis.strategies as st
import jax
from jaxtyping import Array, Key

from ..._checks import one_of
from ..._custom_types import Door
from ._draw import Draw
from ._key_words import IMPLEMENTATIONS, SEEDS, key_of
from ._printed import remember
from ._shapes import as_shape
from ._written import as_written


def draw_key(draw: Draw, shape: tuple[int, ...] = ()) -> jax.Array:
    """A key of any implementation."""
    return key_of(draw(SEEDS), shape, draw(st.sampled_from(IMPLEMENTATIONS)))


@st.composite
def _keys(draw: Draw, implementations: tuple[str, ...], shape: Any) -> Key[Array, "..."]:
    size = draw(shape.map(as_shape)) if isinstance(shape, st.SearchStrategy) else shape
    return remember(key_of(draw(SEEDS), size, draw(st.sampled_from(implementations))))


def keys(
    *, shape: Door[Any] = (), impl: Door[str | None] = None
) -> st.SearchStrategy[Key[Array, "..."]]:
    """Typed keys, as `jax.random.key` makes them.

    What fails shrinks to `jax.random.key(0)`.

    Args:
        shape: `()` for a single key; a tuple, or a strategy for tuples, for an array of different
            ones.
        impl: `"threefry2x32"`, `"rbg"` or `"unsafe_rbg"`; by default any of them.

    Raises:
        ArgumentValueError: There is no such implementation.
        ArgumentTypeError: `shape` is none.
    """
    if impl is not None:
        one_of("impl", impl, IMPLEMENTATIONS)
    place = shape if isinstance(shape, st.SearchStrategy) else as_shape(shape)
    found = _keys(IMPLEMENTATIONS if impl is None else (impl,), place)
    return as_written(keys, locals(), found)
