"""Leaves of drawn trees: arrays, keys, numbers, functions, NumPy arrays, words."""

from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp

from .. import pool
from ._arrays import ArrayPlan, draw_array
from ._keys import draw_key

FUNCTIONS = (jax.nn.relu, jnp.tanh, pool.halved, pool.leaky, jax.nn.gelu, abs)
"""Functions that stand as leaves; some are no Python functions, one is a `functools.partial`."""

_NUMBERS = (0, 1, False, True, 0.0, 0.5, -2, 1j)
_WORDS = ("", "relu", "same")

_FUNCTION = st.sampled_from(FUNCTIONS)
_NUMBER = st.sampled_from(_NUMBERS)
_WORD = st.sampled_from(_WORDS)


def _array(draw: st.DrawFn, plan: ArrayPlan) -> Any:
    return draw_array(draw, plan)


def _key(draw: st.DrawFn, plan: ArrayPlan) -> Any:
    return draw_key(draw)


def _number(draw: st.DrawFn, plan: ArrayPlan) -> Any:
    return draw(_NUMBER)


def _function(draw: st.DrawFn, plan: ArrayPlan) -> Any:
    return draw(_FUNCTION)


def _numpy(draw: st.DrawFn, plan: ArrayPlan) -> Any:
    return draw_array(draw, plan._replace(kinds=("numpy",)))


def _word(draw: st.DrawFn, plan: ArrayPlan) -> Any:
    return draw(_WORD)


# The simplest first; half of all leaves are arrays.
_MAKERS = (_array, _array, _array, _array, _array, _key, _number, _function, _numpy, _word)

_MAKER = st.sampled_from(_MAKERS)


def draw_leaf(draw: st.DrawFn, plan: ArrayPlan) -> Any:
    """A leaf of any kind."""
    return draw(_MAKER)(draw, plan)
