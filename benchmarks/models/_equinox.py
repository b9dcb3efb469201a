"""The models in `equinox.nn` layers: what treadle, the hand-written loop and klax train."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from .._configs import NUM_CLASSES, Config, Pair, Weights
from ._on_device import on_device


def _linear(weights: Weights, name: str) -> eqx.nn.Linear:
    weight, bias = on_device(weights[f"{name}/weight"]), on_device(weights[f"{name}/bias"])
    # Only its shape: a large model must not be drawn twice.
    key = jax.eval_shape(jax.random.key, 0)
    layer = eqx.filter_eval_shape(eqx.nn.Linear, weight.shape[1], weight.shape[0], key=key)
    return eqx.tree_at(lambda x: (x.weight, x.bias), layer, (weight, bias))


class MLP(eqx.Module):
    """Linear layers with ReLU and dropout between them, called on one example."""

    layers: list[eqx.nn.Linear]
    dropout: eqx.nn.Dropout

    def __init__(self, config: Config, weights: Weights):
        count = len(list(itertools.pairwise(config.sizes)))
        self.layers = [_linear(weights, f"layers/{index}") for index in range(count)]
        self.dropout = eqx.nn.Dropout(config.dropout)

    def __call__(
        self, x: Float[Array, " inputs"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " classes"]:
        *hidden, last = self.layers
        draws = self.dropout.p > 0 and not self.dropout.inference
        keys = jax.random.split(key, len(hidden)) if draws else [None] * len(hidden)
        for layer, own in zip(hidden, keys, strict=True):
            x = jax.nn.relu(layer(x))
            if draws:
                x = self.dropout(x, key=own)
        return last(x)


class Block(eqx.Module):
    """A pre-norm transformer block."""

    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, config: Config, weights: Weights, name: str):
        self.norm1 = eqx.nn.LayerNorm(config.width)
        self.norm2 = eqx.nn.LayerNorm(config.width)
        attention = eqx.nn.MultiheadAttention(
            config.num_heads,
            config.width,
            use_query_bias=True,
            use_key_bias=True,
            use_value_bias=True,
            use_output_bias=True,
            key=jax.random.key(0),
        )
        roles = ("query", "key", "value", "output")
        self.attention = eqx.tree_at(
            lambda x: [getattr(x, f"{role}_proj") for role in roles],
            attention,
            [_linear(weights, f"{name}/attention/{role}") for role in roles],
        )
        self.up = _linear(weights, f"{name}/up")
        self.down = _linear(weights, f"{name}/down")

    def __call__(self, x: Float[Array, "tokens width"]) -> Float[Array, "tokens width"]:
        normed = jax.vmap(self.norm1)(x)
        x = x + self.attention(normed, normed, normed)
        hidden = jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norm2)(x)))
        return x + jax.vmap(self.down)(hidden)


class Transformer(eqx.Module):
    """Blocks over tokens that are vectors already, then the mean token's class."""

    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, config: Config, weights: Weights):
        self.blocks = [Block(config, weights, f"blocks/{i}") for i in range(config.depth)]
        self.norm = eqx.nn.LayerNorm(config.width)
        self.head = _linear(weights, "head")
        assert self.head.out_features == NUM_CLASSES

    def __call__(
        self, x: Float[Array, "tokens width"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " classes"]:
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(jax.vmap(self.norm)(x), axis=0))


class ConvNorm(eqx.Module):
    """A convolution without bias, and BatchNorm over the examples."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, weights: Weights, name: str, stride: int = 1):
        kernel = on_device(weights[f"{name}/conv/weight"])
        width, channels, side, _ = kernel.shape
        conv = eqx.nn.Conv2d(
            channels, width, side, stride, side // 2, use_bias=False, key=jax.random.key(0)
        )
        self.conv = eqx.tree_at(lambda x: x.weight, conv, kernel)
        self.norm = eqx.nn.BatchNorm(width, "batch", mode="batch")

    def __call__(
        self, x: Float[Array, "channels height width"], state: eqx.nn.State
    ) -> tuple[Float[Array, "_ _ _"], eqx.nn.State]:
        return self.norm(self.conv(x), state)


class ResidualBlock(eqx.Module):
    """Two convolutions beside a shortcut, which is one itself where the shape changes."""

    first: ConvNorm
    second: ConvNorm
    skip: ConvNorm | None

    def __init__(self, weights: Weights, name: str):
        changes = f"{name}/skip/conv/weight" in weights
        stride = 2 if changes else 1
        self.first = ConvNorm(weights, f"{name}/first", stride)
        self.second = ConvNorm(weights, f"{name}/second")
        self.skip = ConvNorm(weights, f"{name}/skip", stride) if changes else None

    def __call__(
        self, x: Float[Array, "channels height width"], state: eqx.nn.State
    ) -> tuple[Float[Array, "_ _ _"], eqx.nn.State]:
        hidden, state = self.first(x, state)
        hidden, state = self.second(jax.nn.relu(hidden), state)
        if self.skip is not None:
            x, state = self.skip(x, state)
        return jax.nn.relu(x + hidden), state


class ResNet(eqx.Module):
    """Residual blocks over a small image, then the class of its mean pixel."""

    stem: ConvNorm
    blocks: list[ResidualBlock]
    head: eqx.nn.Linear

    def __init__(self, config: Config, weights: Weights):
        self.stem = ConvNorm(weights, "stem")
        self.blocks = [ResidualBlock(weights, f"blocks/{i}") for i in range(config.depth)]
        self.head = _linear(weights, "head")

    def __call__(
        self, x: Float[Array, "1 height width"], state: eqx.nn.State
    ) -> tuple[Float[Array, " classes"], eqx.nn.State]:
        x, state = self.stem(x, state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(jnp.mean(x, axis=(1, 2))), state


def model(config: Config, weights: Weights) -> Any:
    """The configuration's model, holding `weights`; a stateful one in a pair with its state."""
    if config.stateful:
        return eqx.nn.make_with_state(ResNet)(config, weights)
    return (MLP if config.kind == "mlp" else Transformer)(config, weights)


def batched(model: Any, model_state: eqx.nn.State, inputs: Array) -> tuple[Array, eqx.nn.State]:
    """Logits of a whole batch by a stateful model, and its next state."""
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(
        inputs, model_state
    )


@eqx.filter_jit
def _losses(model: Any, model_state: eqx.nn.State | None, inputs: Array, labels: Array) -> Array:
    model = eqx.nn.inference_mode(model, value=model_state is None)
    if model_state is None:
        logits = jax.vmap(model)(inputs)
    else:
        logits, _ = batched(model, model_state, inputs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def loss(model: Any, model_state: eqx.nn.State | None, batch: Pair) -> float:
    """A model's loss on a batch, dropout off, BatchNorm by the batch itself."""
    return float(jnp.mean(_losses(model, model_state, *batch)))
