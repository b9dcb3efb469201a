"""The models in Flax NNX layers."""

import itertools

import jax.numpy as jnp
from flax import nnx

from .._configs import NUM_CLASSES, Config, Weights


def _load(layer, weights: Weights, name: str):
    """Puts the named weights into a linear layer, whatever shape it keeps them in."""
    kernel, bias = weights[f"{name}/weight"].T, weights[f"{name}/bias"]
    layer.kernel.set_value(jnp.array(kernel.reshape(layer.kernel.shape)))
    layer.bias.set_value(jnp.array(bias.reshape(layer.bias.shape)))
    return layer


def _linear(weights: Weights, name: str, rngs: nnx.Rngs) -> nnx.Linear:
    out_size, in_size = weights[f"{name}/weight"].shape
    return _load(nnx.Linear(in_size, out_size, rngs=rngs), weights, name)


class MLP(nnx.Module):
    def __init__(self, config: Config, weights: Weights, rngs: nnx.Rngs):
        count = len(list(itertools.pairwise(config.sizes)))
        self.layers = nnx.List([_linear(weights, f"layers/{i}", rngs) for i in range(count)])
        # A dropout that drops nothing would still carry its random state through every step.
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs) if config.dropout else None

    def __call__(self, x):
        *hidden, last = self.layers
        for layer in hidden:
            x = nnx.relu(layer(x))
            if self.dropout is not None:
                x = self.dropout(x)
        return last(x)


class Block(nnx.Module):
    def __init__(self, config: Config, weights: Weights, name: str, rngs: nnx.Rngs):
        width = config.width
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            config.num_heads, width, decode=False, keep_rngs=False, rngs=rngs
        )
        for role in ("query", "key", "value"):
            _load(getattr(self.attention, role), weights, f"{name}/attention/{role}")
        _load(self.attention.out, weights, f"{name}/attention/output")
        self.up = _linear(weights, f"{name}/up", rngs)
        self.down = _linear(weights, f"{name}/down", rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    def __init__(self, config: Config, weights: Weights, rngs: nnx.Rngs):
        blocks = [Block(config, weights, f"blocks/{i}", rngs) for i in range(config.depth)]
        self.blocks = nnx.List(blocks)
        self.norm = nnx.LayerNorm(config.width, epsilon=1e-5, rngs=rngs)
        self.head = _linear(weights, "head", rngs)
        assert self.head.out_features == NUM_CLASSES

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(self.norm(x), axis=-2))


def model(config: Config, weights: Weights) -> nnx.Module:
    """The configuration's model, holding `weights`."""
    return (MLP if config.kind == "mlp" else Transformer)(config, weights, nnx.Rngs(0))
