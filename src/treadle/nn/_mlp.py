"""The multilayer perceptron."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import whole_number
from .._errors import ArgumentTypeError, ArgumentValueError
from .._random import as_key
from ._door import at_the_door, check_features

_NO_KEY = """`key` is None, but this MLP is in training mode and drops out (`dropout`={p}), for \
which it needs one.
- In a loss, pass on the key that `treadle.TrainStep` gives you: `model(x, key=key)`.
- To predict, switch dropout off: `eqx.nn.inference_mode(model)(x)` (`treadle.evaluate` and \
`treadle.predict` do this for you)."""


def _check_arguments(
    self: Any,
    in_size: Any,
    out_size: Any,
    width: Any,
    depth: Any,
    *,
    dropout: Any = 0.0,
    activation: Any = jax.nn.relu,
    key: Any,
) -> None:
    whole_number("in_size", in_size)
    whole_number("out_size", out_size)
    whole_number("width", width)
    whole_number("depth", depth, minimum=0)
    try:
        rate = float(dropout)
    except (TypeError, ValueError):
        raise ArgumentTypeError(
            f"`dropout` (={dropout!r}) must be a number in [0, 1), not {type(dropout).__name__}."
        ) from None
    if not 0 <= rate < 1:
        raise ArgumentValueError(
            f"`dropout` (={dropout}) must lie in [0, 1): it is the fraction of hidden units that "
            "is dropped."
        )
    if not callable(activation):
        raise ArgumentTypeError(
            f"`activation` (={activation!r}) must be a function of an array, such as `jax.nn.relu`."
        )
    as_key(key)


def _check_call(self: Any, x: Any, *, key: Any = None) -> None:
    check_features("MLP", x, self.in_size)
    if key is not None:
        as_key(key)
    elif len(self.layers) > 1 and not self.dropout.inference and not _never_drops(self.dropout):
        raise ArgumentValueError(_NO_KEY.format(p=self.dropout.p))


def _never_drops(dropout: eqx.nn.Dropout) -> bool:
    # As in Equinox: a rate that is an array may be traced, and is then taken to drop.
    return isinstance(dropout.p, int | float) and dropout.p == 0


class MLP(eqx.Module):
    """A multilayer perceptron: `depth` hidden layers of `width` units, then a linear readout.

    Each hidden layer is a linear map, the activation, and dropout; the readout has neither. With
    `depth=0` the model is a single linear map. (`eqx.nn.MLP` counts `depth` in the same way.)

    It is called on **one** example; `treadle.TrainStep` vmaps the loss over the batch, elsewhere
    write `jax.vmap(model)`. What it is given is checked while tracing, always: a wrong shape,
    integers, or a missing key are told in these terms, at no cost to the compiled program.

    Dropout is switched off by `eqx.nn.inference_mode(model)`, on its own copy of the model; there
    is no other flag.

    Attributes:
        layers: The `depth + 1` linear layers, input first.
        dropout: Applied after the activation of every hidden layer.
        activation: Of every hidden layer. A module with parameters is trained with the model, one
            set shared by all layers.

    Example:
        >>> model = treadle.nn.MLP(784, 10, width=256, depth=2, key=jax.random.key(0))
        >>> logits = model(jnp.zeros(784))
    """

    layers: tuple[eqx.nn.Linear, ...]
    dropout: eqx.nn.Dropout
    activation: Callable[[Array], Array]
    in_size: int = eqx.field(static=True)
    out_size: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)

    @at_the_door(_check_arguments)
    def __init__(
        self,
        in_size: int,
        out_size: int,
        width: int,
        depth: int,
        *,
        dropout: float = 0.0,
        activation: Callable[[Array], Array] = jax.nn.relu,
        key: PRNGKeyArray,
    ):
        """Draws the parameters from `key`, as `eqx.nn.Linear` does.

        Args:
            in_size: Length of an example's feature vector, at least 1.
            out_size: Length of the output vector, at least 1.
            width: Units of each hidden layer, at least 1.
            depth: Number of hidden layers, at least 0.
            dropout: Fraction of hidden units set to zero in training, in [0, 1). The others are
                scaled by `1 / (1 - dropout)`.
            activation: A function of the hidden layer's vector.
            key: Made by `jax.random.key`.

        Raises:
            ArgumentValueError: A size or the dropout rate is out of its range.
            ArgumentTypeError: A size is not an integer, `activation` cannot be called, or `key`
                is not a key (a seed, say).
        """
        self.in_size, self.out_size = int(in_size), int(out_size)
        self.width, self.depth = int(width), int(depth)
        sizes = [self.in_size, *[self.width] * self.depth, self.out_size]
        keys = jax.random.split(as_key(key), self.depth + 1)
        self.layers = tuple(
            eqx.nn.Linear(fan_in, fan_out, key=layer_key)
            for fan_in, fan_out, layer_key in zip(sizes[:-1], sizes[1:], keys, strict=True)
        )
        self.dropout = eqx.nn.Dropout(float(dropout))
        self.activation = activation

    @at_the_door(_check_call)
    def __call__(
        self,
        x: Float[Array, " in_size"] | Float[np.ndarray, " in_size"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " out_size"]:
        """Computes the output for one example.

        Args:
            x: The example's features, floating point.
            key: For dropout. Needed in training mode where `dropout` is above 0, otherwise unused.

        Returns:
            The output vector (logits, for a classifier: there is no activation after it).

        Raises:
            ArgumentValueError: `x` is not one vector of length `in_size`, or dropout lacks a key.
            ArgumentTypeError: `x` is not a floating-point array, or `key` is not a key.
        """
        *hidden, readout = self.layers
        keys = [None] * len(hidden) if key is None else jax.random.split(key, len(hidden))
        features = jnp.asarray(x)
        for layer, layer_key in zip(hidden, keys, strict=True):
            features = self.dropout(self.activation(layer(features)), key=layer_key)
        return readout(features)
