"""Layers of `eqx.nn` to draw from: made by shapes alone, once, and filled with numbers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp

from ._arrays import ArrayPlan
from ._draw import Draw
from ._key_words import plain_key
from ._values import Slot, draw_values

nn = eqx.nn


class Layer(NamedTuple):
    """How a layer is made, and what is known of it before.

    Attributes:
        make: From a key.
        leaves: How many there are.
        of_floats: Whether all of them are arrays of floats.
        stateful: Whether it keeps a state.
    """

    make: Callable[[Any], eqx.Module]
    leaves: int
    of_floats: bool = True
    stateful: bool = False


LAYERS = (
    Layer(lambda key: nn.Linear(2, 3, key=key), 2),
    Layer(lambda key: nn.Linear(3, 2, use_bias=False, key=key), 1),
    Layer(lambda key: nn.Linear("scalar", 2, key=key), 2),
    Layer(lambda key: nn.Identity(), 0),
    Layer(lambda key: nn.Dropout(0.5), 2, of_floats=False),
    Layer(lambda key: nn.Lambda(jax.nn.relu), 1, of_floats=False),
    Layer(lambda key: nn.PReLU(), 1),
    Layer(lambda key: nn.Embedding(4, 2, key=key), 1),
    Layer(lambda key: nn.LayerNorm(3), 2),
    Layer(lambda key: nn.LayerNorm((2, 3), use_bias=False), 1),
    Layer(lambda key: nn.RMSNorm(3), 2),
    Layer(lambda key: nn.GroupNorm(1, 2), 2),
    Layer(lambda key: nn.Conv1d(1, 2, 3, key=key), 2),
    Layer(lambda key: nn.Conv2d(2, 1, 1, use_bias=False, key=key), 1),
    Layer(lambda key: nn.ConvTranspose1d(1, 2, 3, key=key), 2),
    Layer(lambda key: nn.AvgPool1d(2), 2, of_floats=False),
    Layer(lambda key: nn.RotaryPositionalEmbedding(2), 0),
    Layer(lambda key: nn.MLP(2, 2, 3, 1, key=key), 6, of_floats=False),
    Layer(
        lambda key: nn.MLP(1, "scalar", 2, 2, activation=jnp.tanh, use_bias=False, key=key),
        6,
        of_floats=False,
    ),
    Layer(lambda key: nn.GRUCell(2, 2, key=key), 4),
    Layer(lambda key: nn.LSTMCell(2, 2, key=key), 3),
    Layer(lambda key: nn.MultiheadAttention(1, 2, dropout_p=0.1, key=key), 6, of_floats=False),
    Layer(
        lambda key: nn.Sequential([nn.Linear(2, 3, key=key), nn.Lambda(jax.nn.relu)]),
        3,
        of_floats=False,
    ),
    Layer(lambda key: nn.WeightNorm(nn.Linear(2, 3, key=key)), 4, of_floats=False),
    Layer(lambda key: nn.BatchNorm(2, "batch", mode="ema"), 7, False, stateful=True),
    Layer(
        lambda key: nn.BatchNorm(2, "batch", channelwise_affine=False, mode="batch"),
        5,
        of_floats=False,
        stateful=True,
    ),
    Layer(
        lambda key: nn.SpectralNorm(nn.Linear(2, 3, key=key), "weight", key=key),
        5,
        of_floats=False,
        stateful=True,
    ),
)
"""The simplest first. What is said of them is tested, not measured: making all takes a second."""


def is_struct(leaf: Any) -> bool:
    """Whether a leaf stands for an array."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _is_float(leaf: Any) -> bool:
    return is_struct(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


@functools.cache
def skeleton(layer: Layer, wide: bool) -> tuple[list[Any], Any]:
    """The leaves of a layer, `jax.ShapeDtypeStruct`s where there are arrays, and its structure.

    Args:
        layer: Which.
        wide: Whether 64 bits are switched on, on which its own dtypes depend.
    """
    del wide
    return jax.tree.flatten(eqx.filter_eval_shape(layer.make, plain_key()))


@functools.cache
def fitting(most: int, floats_only: bool, stateful: bool | None) -> list[Layer]:
    """The layers that may be drawn, of which there may be none; see `draw_layer`."""
    return [
        layer
        for layer in LAYERS
        if layer.leaves <= most
        and (layer.of_floats or not floats_only)
        and (stateful is None or layer.stateful == stateful)
    ]


@functools.cache
def _choices(most: int, floats_only: bool, stateful: bool | None) -> st.SearchStrategy[Layer]:
    return st.sampled_from(fitting(most, floats_only, stateful))


def draw_layer(
    draw: Draw, plan: ArrayPlan, most: int, floats_only: bool, stateful: bool | None
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
    found, treedef = skeleton(draw(_choices(most, floats_only, stateful)), wide)
    leaves = list(found)
    places = [at for at, leaf in enumerate(leaves) if is_struct(leaf)]
    if not places:
        return jax.tree.unflatten(treedef, leaves)
    dtype = draw(plan.dtypes)
    values = []
    for leaf in (leaves[at] for at in places):
        slot = Slot(leaf.shape, dtype if _is_float(leaf) else leaf.dtype, plan.limits)
        # A seed each: what has fewer arrays takes fewer choices, and what fails shrinks to it.
        values += draw_values(draw, [slot], plan.changes)
    for at, value in zip(places, jax.device_put(values), strict=True):
        leaves[at] = value
    return jax.tree.unflatten(treedef, leaves)
