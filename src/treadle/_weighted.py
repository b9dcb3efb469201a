"""Figures that are means over examples, with weights, or plain sums."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._errors import LossError

RESERVED = ("loss", "grad_norm", "step")


class Weighted(eqx.Module):
    """A value and what it counts for.

    Over a batch, all of its microbatches and all devices, the figure is
    `sum(value * weight) / sum(weight)`. The weight is not differentiated. A value of weight 0 does
    not count at all, not even when it is NaN; a total weight of 0 gives 0, and a
    `treadle.ZeroWeightWarning`.

    Args:
        value: A real number, or an array of them (which becomes an array of figures).
        weight: A scalar, or an array of the value's shape.

    Example:
        >>> tokens = mask.sum()
        >>> return treadle.Weighted((losses * mask).sum() / tokens, tokens)
    """

    value: Any
    weight: Any


class Sum(eqx.Module):
    """An array that is added up over the examples, such as a confusion matrix or a count."""

    array: Any


class Total(eqx.Module):
    """What a figure has added up to so far.

    `denominator` is `None` for a `Sum`; `numerator` and `denominator` are float32 at least.
    `weighted` says whether the weights are anything but ones, so that they might be 0.
    """

    numerator: Any
    denominator: Any = None
    weighted: bool = eqx.field(static=True, default=False)


class ZeroWeightWarning(UserWarning):
    """All weights of a `Weighted` figure were 0, so the figure is 0 and says nothing."""


def _figure_dtype(*dtypes: Any) -> Any:
    """Figures are added up in float32 at least; where there is float64, in that."""
    return jnp.float64 if any(dtype == jnp.float64 for dtype in dtypes) else jnp.float32


def as_total(name: str, leaf: Any, weight: float | Array | np.ndarray = 1.0) -> Total:
    """One leaf of a loss or of its aux, as a total that can be added to others.

    Args:
        name: What the figure is called, for messages.
        leaf: A scalar, a `Weighted` or a `Sum`.
        weight: What a bare scalar counts for, and the factor of everything else.

    Raises:
        LossError: If it is not an array of real numbers, or a bare array that is not a scalar.
    """
    if isinstance(leaf, Sum):
        array = _real(name, leaf.array)
        if isinstance(weight, float) and weight == 1.0:
            return Total(array)
        weight = jnp.asarray(weight, array.dtype)
        # Not `array * weight`: a row that only fills the batch up may hold an infinity.
        return Total(jnp.where(weight == 0, jnp.zeros((), array.dtype), array * weight))
    if isinstance(leaf, Weighted):
        value, own = _real(name, leaf.value), _real(f"{name} (its weight)", leaf.weight)
        if own.shape not in ((), value.shape):
            raise LossError(
                f"`{name}` is a `Weighted` whose weight has shape {own.shape}, but its value has "
                f"shape {value.shape}: the weight must be a scalar or have the value's shape."
            )
        own = jnp.broadcast_to(own, value.shape)
    else:
        value = _real(name, leaf)
        if value.shape != ():
            raise LossError(
                f"`{name}` has shape {value.shape}: a bare entry must be a scalar. Reduce it "
                f"(`jnp.mean(...)`), or return `treadle.Sum(...)` to add the arrays up, or "
                f"`treadle.Weighted(value, weight)` for a mean of each element."
            )
        own = jnp.ones((), value.dtype)
        if isinstance(weight, float) and weight == 1.0:
            return Total(value, own)
    dtype = _figure_dtype(value.dtype, own.dtype)
    own = jax.lax.stop_gradient(own.astype(dtype) * jnp.asarray(weight, dtype))
    # Weight 0 means "not there": 0 * nan would be nan. The inner `where` keeps the gradient clean.
    value = jnp.where(own == 0, jnp.zeros((), dtype), value.astype(dtype))
    return Total(value * own, own, weighted=True)


def _real(name: str, leaf: Any) -> Float[Array, "..."]:
    try:
        array = jnp.asarray(leaf)
    except (TypeError, ValueError) as error:  # JAX says ValueError of `None`.
        raise LossError(
            f"`{name}` (={leaf!r}) is a {type(leaf).__name__}, not an array: the loss and its aux "
            f"are numbers. Leave it out, or return what you want to know of it as a number."
        ) from error
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(_figure_dtype(array.dtype))
    if jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == jnp.bool_:
        return array.astype(jnp.float32)
    raise LossError(
        f"`{name}` has dtype {array.dtype}: figures are real numbers. Take `.real`, `jnp.abs(...)` "
        f"or whatever you mean by its size."
    )


def reduce_examples(total: Total) -> Total:
    """A total whose leading axis are examples, added up along it."""
    denominator = None if total.denominator is None else jnp.sum(total.denominator, axis=0)
    return Total(jnp.sum(total.numerator, axis=0), denominator, total.weighted)


def figure(total: Total) -> Array:
    """The mean (or sum) that a total stands for; 0 where the total weight is 0."""
    if total.denominator is None:
        return total.numerator
    return total.numerator * inverse_weight(total.denominator)


def inverse_weight(weight: Array) -> Array:
    """`1 / weight`, and 0 where there is none."""
    empty = weight == 0
    return jnp.where(
        empty, jnp.zeros_like(weight), 1 / jnp.where(empty, jnp.ones_like(weight), weight)
    )
