"""Leaves of drawn trees that are no arrays: numbers, functions, words."""

from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp

from .. import pool
from ._draw import Draw

_FUNCTIONS = (jax.nn.relu, pool.leaky, pool.halved, jnp.tanh, abs)
"""Functions that stand as leaves; some are no Python functions, one is a `functools.partial`."""

_NUMBERS = (0, 1, False, True, 0.0, 0.5, -2, 1j)
_WORDS = ("", "relu", "same")

_FUNCTION = st.sampled_from(_FUNCTIONS)
_NUMBER = st.sampled_from(_NUMBERS)
_WORD = st.sampled_from(_WORDS)


def draw_number(draw: Draw) -> Any:
    """A Python number."""
    return draw(_NUMBER)


def draw_word(draw: Draw) -> str:
    """A string."""
    return draw(_WORD)


def draw_function(draw: Draw) -> Any:
    """A function."""
    return draw(_FUNCTION)
