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


class ConvNorm(nnx.Module):
    def __init__(self, weights: Weights, name: str, stride: int, rngs: nnx.Rngs):
        kernel = weights[f"{name}/conv/weight"].transpose(2, 3, 1, 0)
        *sides, channels, width = kernel.shape
        self.conv = nnx.Conv(
            channels,
            width,
            tuple(sides),
            stride,
            padding=[(side // 2, side // 2) for side in sides],
            use_bias=False,
            rngs=rngs,
        )
        self.conv.kernel.set_value(jnp.array(kernel))
        self.norm = nnx.BatchNorm(width, momentum=0.99, epsilon=1e-5, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.conv(x))


class ResidualBlock(nnx.Module):
    def __init__(self, weights: Weights, name: str, rngs: nnx.Rngs):
        changes = f"{name}/skip/conv/weight" in weights
        stride = 2 if changes else 1
        self.first = ConvNorm(weights, f"{name}/first", stride, rngs)
        self.second = ConvNorm(weights, f"{name}/second", 1, rngs)
        self.skip = ConvNorm(weights, f"{name}/skip", stride, rngs) if changes else None

    def __call__(self, x):
        hidden = self.second(nnx.relu(self.first(x)))
        if self.skip is not None:
            x = self.skip(x)
        return nnx.relu(x + hidden)


class ResNet(nnx.Module):
    def __init__(self, config: Config, weights: Weights, rngs: nnx.Rngs):
        self.stem = ConvNorm(weights, "stem", 1, rngs)
        blocks = [ResidualBlock(weights, f"blocks/{i}", rngs) for i in range(config.depth)]
        self.blocks = nnx.List(blocks)
        self.head = _linear(weights, "head", rngs)

    def __call__(self, x):
        x = x.reshape(-1, *x.shape[2:], 1)  # Channels last, as Flax has them.
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(-3, -2)))


def model(config: Config, weights: Weights) -> nnx.Module:
    """The configuration's model, holding `weights`."""
    made = {"mlp": MLP, "transformer": Transformer, "resnet": ResNet}[config.kind]
    return made(config, weights, nnx.Rngs(0))
