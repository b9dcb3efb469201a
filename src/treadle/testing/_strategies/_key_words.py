"""Typed keys from their words, where `jax.random.key` would compile a program."""

import math
from typing import Any

import hypothesis.strategies as st
import jax
import numpy as np

_WORDS = {"threefry2x32": 2, "rbg": 4, "unsafe_rbg": 4}
"""The implementations that JAX brings, and how many words a key of each has."""

IMPLEMENTATIONS = tuple(_WORDS)

SEEDS = st.integers(0, 2**32 - 1)


def words_of(seed: int, shape: tuple[int, ...], width: int) -> np.ndarray:
    """The words of keys: of one, those of `jax.random.key(seed)`."""
    seeds = (seed + np.arange(math.prod(shape), dtype=np.uint64)).astype(np.uint32)
    columns = [seeds if at % 2 else np.zeros_like(seeds) for at in range(width)]
    return np.stack(columns, axis=-1).reshape(*shape, width)


def key_of(
    seed: int, shape: tuple[int, ...], implementation: str, width: int | None = None
) -> jax.Array:
    """Keys, without compiling what `jax.random.key` compiles.

    Args:
        seed: Of the first; the others have those that follow.
        shape: Of the array of keys.
        implementation: Its name.
        width: How many words a key has, for implementations that JAX does not bring.
    """
    words = words_of(seed, shape, _WORDS[implementation] if width is None else width)
    return jax.random.wrap_key_data(jax.device_put(words), impl=implementation)


def make_of(keys: Any) -> tuple[str, int]:
    """The implementation and the number of words of keys, or of what stands for them."""
    told: list[str] = []

    def words(traced: jax.Array) -> jax.Array:
        told.append(str(jax.random.key_impl(traced)))
        return jax.random.key_data(traced)

    width = jax.eval_shape(words, keys).shape[-1]
    return told[0], width


def plain_key() -> jax.Array:
    """`jax.random.key(0)`."""
    return key_of(0, (), "threefry2x32")
