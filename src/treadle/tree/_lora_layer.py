"""A layer whose weight is changed by a product of two small matrices."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from .._custom_types import PRNGKey
from ._exact import exact_where

_LAYERS = (eqx.nn.Linear, eqx.nn.Conv, eqx.nn.Embedding)


def _leading_axes(layer: Any) -> int:
    """How many axes a weight has before its own: those of `eqx.filter_vmap` over constructors."""
    own = layer.num_spatial_dims + 2 if isinstance(layer, eqx.nn.Conv) else 2
    return layer.weight.ndim - own


def is_adaptable(node: Any) -> bool:
    """Whether `node` is a layer that an adapter fits: an array for a weight, used as Equinox does.

    A subclass that calls itself in another way is none: what it does with its weight is not known.
    """
    if not any(isinstance(node, cls) and type(node).__call__ is cls.__call__ for cls in _LAYERS):
        return False
    if not isinstance(node.weight, (jax.Array, np.ndarray)) or _leading_axes(node) < 0:
        return False
    return jnp.issubdtype(node.weight.dtype, jnp.inexact)


def _format(weight: Any) -> Any:
    """The dtype that JAX computes with: NumPy's float64 is float32 where that is switched off."""
    return jax.dtypes.canonicalize_dtype(weight.dtype)


@functools.singledispatch
def _change(layer: Any, a: Array, b: Array, x: Any) -> Array:
    """What the product of `b` and `a`, added to the layer's weight, adds to its output."""
    raise AssertionError(f"{type(layer).__name__} is no layer that `is_adaptable` lets through.")


@_change.register(eqx.nn.Linear)
def _(layer: eqx.nn.Linear, a: Array, b: Array, x: Any) -> Array:
    y = b @ (a @ (jnp.reshape(x, (1,)) if layer.in_features == "scalar" else x))
    return jnp.reshape(y, ()) if layer.out_features == "scalar" else y


@_change.register(eqx.nn.Embedding)
def _(layer: eqx.nn.Embedding, a: Array, b: Array, x: Any) -> Array:
    return b[x] @ a


@_change.register(eqx.nn.Conv)
def _(layer: eqx.nn.Conv, a: Array, b: Array, x: Any) -> Array:
    groups, rank = layer.groups, a.shape[0]
    # Every group of input channels meets all of `a`, and the rows of `b` that are its own.
    down = eqx.tree_at(lambda conv: conv.weight, layer, jnp.concatenate([a] * groups))
    if layer.bias is not None:
        shape = (groups * rank, *layer.bias.shape[1:])
        down = eqx.tree_at(lambda conv: conv.bias, down, jnp.zeros(shape, layer.bias.dtype))
    # Of the class, as `layer` may be of one that counts its calls.
    inner = eqx.nn.Conv.__call__(down, x)
    inner = inner.reshape(groups, rank, *inner.shape[1:])
    y = jnp.einsum("gor,gr...->go...", b.reshape(groups, -1, rank), inner)
    return y.reshape(-1, *inner.shape[2:])


def _silent(layer: Any, b: Array, x: Any) -> Bool[Array, "..."]:
    """Where `_change` adds nothing, on the output's first axis: rows of `b` that are zero."""
    rows = jnp.all((b[x] if isinstance(layer, eqx.nn.Embedding) else b) == 0, axis=-1)
    if isinstance(layer, eqx.nn.Linear) and layer.out_features == "scalar":
        return jnp.reshape(rows, ())
    return rows


def _outwards(rows: Bool[Array, "..."], shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """One flag for each row, as one for each element of an array whose leading axes they are."""
    return jnp.broadcast_to(jnp.reshape(rows, rows.shape + (1,) * (len(shape) - rows.ndim)), shape)


class LoRA(eqx.Module):
    """A layer with an adapter: its weight is `base.weight + scale * (lora_b @ lora_a)`.

    The input goes through the two thin matrices one after the other; the full product is made only
    where `weight` is read. A row of `lora_b` that is zero adds nothing at all: the output there is
    that of `base`, bit for bit. Both are cast to the dtype of `base.weight` when the layer is
    called. Attributes that it does not have are those of `base`.

    Args:
        base: An `eqx.nn.Linear`, `eqx.nn.Conv` or `eqx.nn.Embedding`.
        lora_a: `rank` rows, each of the shape of one row of the weight.
        lora_b: As many rows as the weight has, of `rank` numbers.
        scale: What their product is multiplied by.
    """

    base: Any
    lora_a: Array
    lora_b: Array
    scale: float = eqx.field(static=True)

    def __call__(self, x: Any, *, key: Any = None) -> Array:
        """What the base layer returns, and what the adapter adds to it."""
        plain = jnp.asarray(self.base(x, key=key))
        dtype = _format(self.base.weight)
        a, b = self.lora_a.astype(dtype), self.lora_b.astype(dtype)
        changed = plain + _change(self.base, a, self.scale * b, x)
        silent = _outwards(_silent(self.base, b, x), plain.shape)
        # Adding 0.0 would make 0.0 of -0.0, and NaN of a zero that multiplies an infinity.
        return exact_where(silent, plain, changed)

    @property
    def weight(self) -> Array:
        """The weight with the change in it, for whatever reads it: a tied head, a penalty.

        The change is computed in float32 at least, and rounded once.
        """
        plain, dtype = self.base.weight, _format(self.base.weight)
        # NumPy's rules, which no setting of JAX makes an error.
        wide = np.promote_types(dtype, np.float32)
        a, b = self.lora_a.astype(wide), self.lora_b.astype(wide)
        a = a.reshape(*b.shape[:-2], b.shape[-1], -1)
        change = jnp.matmul(self.scale * b, a, precision=jax.lax.Precision.HIGHEST)
        changed = (plain.astype(wide) + change.reshape(plain.shape)).astype(dtype)
        silent = _outwards(jnp.all(self.lora_b == 0, axis=-1), plain.shape)
        return exact_where(silent, jnp.asarray(plain), changed)

    def merged(self) -> Any:
        """The base layer, with the change in its weight."""
        return eqx.tree_at(lambda layer: layer.weight, self.base, self.weight)

    def __getattr__(self, name: str) -> Any:
        # Asked for what is not there. `weight` comes here where reading it failed, and must not
        # be taken for the base layer's; `base` before there is one, when copying.
        if name in ("base", "weight") or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        return getattr(self.base, name)


def adapted(layer: Any, rank: int, scale: float, key: PRNGKey) -> LoRA:
    """A layer with an adapter that adds nothing yet: `lora_a` is random, `lora_b` zero."""
    shape, lead = layer.weight.shape, _leading_axes(layer)
    row = shape[lead + 1 :]
    dtype = _format(layer.weight)
    a = jax.random.normal(key, (*shape[:lead], rank, *row), dtype)
    return LoRA(
        base=layer,
        lora_a=a * (1 / math.sqrt(max(math.prod(row), 1))),
        lora_b=jnp.zeros((*shape[: lead + 1], rank), dtype),
        scale=scale,
    )
