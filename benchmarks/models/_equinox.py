"""The models in `equinox.nn` layers: what treadle, the hand-written loop and klax train."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._configs import NUM_CLASSES, Config, Weights
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


def model(config: Config, weights: Weights) -> eqx.Module:
    """The configuration's model, holding `weights`."""
    return (MLP if config.kind == "mlp" else Transformer)(config, weights)
