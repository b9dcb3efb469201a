"""Exponential moving averages of trees."""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from .._custom_types import Door
from .._errors import ArgumentTypeError, ArgumentValueError
from ._cast import is_real
from ._exact import exact_where
from ._match import fits, is_inexact, require_match, same_structure
from ._once import once


class _Weights(NamedTuple):
    old: Any
    new: Any


def _mixed(old: Array, new: Array, weights: _Weights) -> Array:
    new = new.astype(old.dtype)
    weight, rest = (one.astype(old.dtype) for one in weights)
    # A step from old to new: of rounding there is least, and none where there is no step.
    step = rest * (new - old)
    # Infinite where numbers are far apart, or one of them is (a mask, say).
    mean = jnp.where(jnp.isfinite(step), old + step, weight * old + rest * new)
    known = (new == old) | (weights.old == 0) | (weights.new == 0)
    return exact_where(known, jnp.where(weights.new == 0, old, new), mean)


# One dispatch for each leaf, not one for each operation.
_mixed_on_device = jax.jit(_mixed, inline=True)


def _mixed_on_host(old: np.ndarray, new: np.ndarray, weights: _Weights) -> np.ndarray:
    """The same where JAX would narrow 64 bits to 32."""
    new = new.astype(old.dtype)
    if weights.old == 0 or weights.new == 0:
        return new if weights.old == 0 else old.copy()
    weight, rest = (one.astype(old.dtype) for one in weights)
    mean = old + rest * (new - old)
    if not np.isfinite(mean).all():
        mean = np.where(np.isfinite(mean), mean, weight * old + rest * new)
    return np.where(new == old, new, mean)


def _leaf(old: Any, new: Any, weights: _Weights) -> Any:
    if not is_inexact(old):
        return new
    if isinstance(old, jax.ShapeDtypeStruct):
        return old
    is_traced = isinstance(new, Tracer) or isinstance(weights.old, Tracer)
    if isinstance(old, np.ndarray) and not is_traced:
        return np.asarray(_mixed_on_host(old, np.asarray(new), weights), old.dtype)
    return _mixed_on_device(old, new, weights)


def _is_real_number(value: Any) -> bool:
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return is_real(value) or jnp.issubdtype(value.dtype, np.integer)
    return isinstance(value, numbers.Real)


def _weights(decay: Any) -> _Weights:
    if isinstance(decay, (jax.Array, np.ndarray)) and decay.ndim:
        raise ArgumentTypeError(f"`decay` must be one number, not an array of shape {decay.shape}.")
    if isinstance(decay, Tracer):
        return _Weights(decay, 1 - decay)
    if not _is_real_number(decay):
        raise ArgumentTypeError(
            f"`decay` (={decay!r}) must be a number from 0 to 1, such as 0.999."
        )
    number = float(decay)
    if not 0 <= number <= 1:
        raise ArgumentValueError(f"`decay` (={decay!r}) must be from 0 to 1, such as 0.999.")
    # The difference in float64: in float32, 1 - 0.9999 is off by 0.0002 of itself.
    return _Weights(np.asarray(number), np.asarray(1 - number))


def ema(old: PyTree, new: PyTree, decay: Door[float | Float[Array, ""]]) -> PyTree:
    """One step of an exponential moving average: `decay * old + (1 - decay) * new`, leaf by leaf.

    Computed in the dtype of `old`, so that a float32 average of a bfloat16 model stays one, and
    where `old` is: of a NumPy array on the host. Arrays that are not of floats (counters, keys) and
    leaves that are no arrays are those of `new`. Where both are equal the result is, bit for bit; a
    decay of 0 gives `new` and of 1 `old`. Derivatives are those of the formula. What is shared in
    both trees is shared in the average. Of `jax.ShapeDtypeStruct`s the average is that of `old`.

    For an average that is right from the first step on and lives in the training state, see
    `TrainStep(ema=...)`; `optax.incremental_update` is the same without the care for dtypes.

    Args:
        old: The average so far.
        new: What joins it, of the same structure and shapes.
        decay: From 0 to 1; a number, or a traced scalar such as a schedule gives.

    Raises:
        TreeError: The trees do not fit, with the first differences on both sides.
        ArgumentValueError: `decay` is not from 0 to 1.
        ArgumentTypeError: `decay` is not a real number.

    Example:
        >>> target = treadle.tree.ema(target, model, 0.995)
    """
    weights = _weights(decay)
    was, now = jax.tree.flatten(old), jax.tree.flatten(new)
    if not same_structure(was[1], now[1]) or not all(map(fits, was[0], now[0])):
        require_match(old, new, ("`old`", "`new`"), fits)
    average = once(lambda a, b: _leaf(a, b, weights))
    with np.errstate(invalid="ignore", over="ignore"):
        return jax.tree.unflatten(was[1], list(map(average, was[0], now[0])))
