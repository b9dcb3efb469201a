"""Layers of `eqx.nn` to draw from: made by shapes alone, once, and filled with numbers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp

from ..pool._stateful import is_index
from ._arrays import ArrayPlan
from ._key_words import plain_key
from ._values import Slot, draw_values

nn = eqx.nn

_MAKERS: tuple[Callable[[Any], eqx.Module], ...] = (
    lambda key: nn.Linear(2, 3, key=key),
    lambda key: nn.Linear(3, 2, use_bias=False, key=key),
    lambda key: nn.Linear("scalar", 2, key=key),
    lambda key: nn.Identity(),
    lambda key: nn.Dropout(0.5),
    lambda key: nn.Lambda(jax.nn.relu),
    lambda key: nn.PReLU(),
    lambda key: nn.Embedding(4, 2, key=key),
    lambda key: nn.LayerNorm(3),
    lambda key: nn.LayerNorm((2, 3), use_bias=False),
    lambda key: nn.RMSNorm(3),
    lambda key: nn.GroupNorm(1, 2),
    lambda key: nn.Conv1d(1, 2, 3, key=key),
    lambda key: nn.Conv2d(2, 1, 1, use_bias=False, key=key),
    lambda key: nn.ConvTranspose1d(1, 2, 3, key=key),
    lambda key: nn.AvgPool1d(2),
    lambda key: nn.RotaryPositionalEmbedding(2),
    lambda key: nn.MLP(2, 2, 3, 1, key=key),
    lambda key: nn.MLP(1, "scalar", 2, 2, activation=jnp.tanh, use_bias=False, key=key),
    lambda key: nn.GRUCell(2, 2, key=key),
    lambda key: nn.LSTMCell(2, 2, key=key),
    lambda key: nn.MultiheadAttention(1, 2, dropout_p=0.1, key=key),
    lambda key: nn.Sequential([nn.Linear(2, 3, key=key), nn.Lambda(jax.nn.relu)]),
    lambda key: nn.WeightNorm(nn.Linear(2, 3, key=key)),
    lambda key: nn.BatchNorm(2, "batch", mode="ema"),
    lambda key: nn.BatchNorm(2, "batch", channelwise_affine=False, mode="batch"),
    lambda key: nn.SpectralNorm(nn.Linear(2, 3, key=key), "weight", key=key),
)


class Layer(NamedTuple):
    """A layer without its numbers.

    Attributes:
        treedef: Its structure.
        leaves: `jax.ShapeDtypeStruct`s where there are arrays; other leaves as they are.
        is_stateful: Whether it keeps a state.
        is_of_floats: Whether all of its leaves are arrays of floats.
    """

    treedef: Any
    leaves: tuple[Any, ...]
    is_stateful: bool
    is_of_floats: bool


def _is_struct(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _is_float(leaf: Any) -> bool:
    return _is_struct(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


@functools.cache
def _layers(wide: bool) -> tuple[Layer, ...]:
    """All of them; the default dtypes depend on whether 64 bits are switched on."""
    del wide
    found = []
    for make in _MAKERS:
        layer = eqx.filter_eval_shape(make, plain_key())
        leaves, treedef = jax.tree.flatten(layer)
        stateful = any(map(is_index, jax.tree.leaves(layer, is_leaf=is_index)))
        found.append(Layer(treedef, tuple(leaves), stateful, all(map(_is_float, leaves))))
    return tuple(found)


@functools.cache
def _choices(
    wide: bool, most: int, floats_only: bool, stateful: bool | None
) -> st.SearchStrategy[Layer]:
    layers = [
        layer
        for layer in _layers(wide)
        if len(layer.leaves) <= most
        and (layer.is_of_floats or not floats_only)
        and (stateful is None or layer.is_stateful == stateful)
    ]
    return st.sampled_from(layers) if layers else st.nothing()


def draw_layer(
    draw: st.DrawFn, plan: ArrayPlan, most: int, floats_only: bool, stateful: bool | None
) -> eqx.Module:
    """A layer of at most so many leaves, its floats in one dtype.

    Args:
        draw: Hypothesis's.
        plan: For the dtype of the floats, and the numbers.
        most: Leaves at most.
        floats_only: Whether all leaves are to be arrays of floats.
        stateful: Whether it is to keep a state; `None` for either.
    """
    wide = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
    layer = draw(_choices(wide, most, floats_only, stateful))
    leaves = list(layer.leaves)
    places = [at for at, leaf in enumerate(leaves) if _is_struct(leaf)]
    if not places:
        return jax.tree.unflatten(layer.treedef, leaves)
    dtype = draw(plan.dtypes)
    slots = [
        Slot(leaf.shape, dtype if _is_float(leaf) else leaf.dtype, plan.limits)
        for leaf in (leaves[at] for at in places)
    ]
    values = draw_values(draw, slots, plan.changes)
    for at, value in zip(places, jax.device_put(values), strict=True):
        leaves[at] = value
    return jax.tree.unflatten(layer.treedef, leaves)
