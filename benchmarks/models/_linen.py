"""The models in Flax Linen layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from .._configs import NUM_CLASSES, Config, Weights


class MLP(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x, train: bool):
        *hidden, last = self.config.sizes[1:]
        for index, size in enumerate(hidden):
            x = nn.relu(nn.Dense(size, name=f"layers_{index}")(x))
            x = nn.Dropout(self.config.dropout, deterministic=not train)(x)
        return nn.Dense(last, name=f"layers_{len(hidden)}")(x)


class Block(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x):
        width = self.config.width
        normed = nn.LayerNorm(epsilon=1e-5, name="norm1")(x)
        attention = nn.MultiHeadDotProductAttention(self.config.num_heads, name="attention")
        x = x + attention(normed, normed)
        normed = nn.LayerNorm(epsilon=1e-5, name="norm2")(x)
        hidden = nn.gelu(nn.Dense(4 * width, name="up")(normed))
        return x + nn.Dense(width, name="down")(hidden)


class Transformer(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x, train: bool):
        for index in range(self.config.depth):
            x = Block(self.config, name=f"blocks_{index}")(x)
        pooled = jnp.mean(nn.LayerNorm(epsilon=1e-5, name="norm")(x), axis=-2)
        return nn.Dense(NUM_CLASSES, name="head")(pooled)


class ConvNorm(nn.Module):
    width: int
    side: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x, train: bool):
        border = self.side // 2
        x = nn.Conv(
            self.width,
            (self.side, self.side),
            self.stride,
            padding=[(border, border)] * 2,
            use_bias=False,
            name="conv",
        )(x)
        return nn.BatchNorm(not train, momentum=0.99, epsilon=1e-5, name="norm")(x)


class ResidualBlock(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train: bool):
        stride = 1 if x.shape[-1] == self.width else 2
        hidden = nn.relu(ConvNorm(self.width, stride=stride, name="first")(x, train))
        hidden = ConvNorm(self.width, name="second")(hidden, train)
        if stride != 1:
            x = ConvNorm(self.width, side=1, stride=stride, name="skip")(x, train)
        return nn.relu(x + hidden)


class ResNet(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x, train: bool):
        x = x.reshape(-1, *x.shape[2:], 1)  # Channels last, as Flax has them.
        x = nn.relu(ConvNorm(self.config.width, name="stem")(x, train))
        for index, width in enumerate(self.config.block_widths):
            x = ResidualBlock(width, name=f"blocks_{index}")(x, train)
        return nn.Dense(NUM_CLASSES, name="head")(jnp.mean(x, axis=(-3, -2)))


def _dense(weights: Weights, name: str) -> dict:
    weight, bias = weights[f"{name}/weight"], weights[f"{name}/bias"]
    return {"kernel": jnp.array(weight.T), "bias": jnp.array(bias)}


def _norm(weights: Weights, name: str) -> dict:
    weight, bias = weights[f"{name}/weight"], weights[f"{name}/bias"]
    return {"scale": jnp.array(weight), "bias": jnp.array(bias)}


def _attention(config: Config, weights: Weights, name: str) -> dict:
    width, heads = config.width, config.num_heads
    params = {role: _dense(weights, f"{name}/{role}") for role in ("query", "key", "value")}
    for dense in params.values():
        dense["kernel"] = dense["kernel"].reshape(width, heads, width // heads)
        dense["bias"] = dense["bias"].reshape(heads, width // heads)
    params["out"] = _dense(weights, f"{name}/output")
    params["out"]["kernel"] = params["out"]["kernel"].reshape(heads, width // heads, width)
    return params


def _resnet_params(weights: Weights) -> dict:
    found: dict = {"head": _dense(weights, "head")}
    for name in (path.removesuffix("/conv/weight") for path in weights if "/conv/" in path):
        *blocks, last = name.replace("blocks/", "blocks_").split("/")
        place = found.setdefault(blocks[0], {}) if blocks else found
        kernel = jnp.array(weights[f"{name}/conv/weight"].transpose(2, 3, 1, 0))
        place[last] = {"conv": {"kernel": kernel}, "norm": _norm(weights, f"{name}/norm")}
    return found


def params(config: Config, weights: Weights) -> dict:
    """The configuration's first weights, as `module.init(...)["params"]` lays them out."""
    if config.kind == "mlp":
        return {f"layers_{i}": _dense(weights, f"layers/{i}") for i in range(config.depth)}
    if config.kind == "resnet":
        return _resnet_params(weights)
    found = {"norm": _norm(weights, "norm"), "head": _dense(weights, "head")}
    for index in range(config.depth):
        block = f"blocks/{index}"
        found[f"blocks_{index}"] = {
            "norm1": _norm(weights, f"{block}/norm1"),
            "norm2": _norm(weights, f"{block}/norm2"),
            "attention": _attention(config, weights, f"{block}/attention"),
            "up": _dense(weights, f"{block}/up"),
            "down": _dense(weights, f"{block}/down"),
        }
    return found


def batch_stats(config: Config) -> dict:
    """A stateful model's first running averages."""
    inputs = jnp.zeros((1, *config.input_shape))
    first = jax.eval_shape(lambda key: module(config).init(key, inputs, True), jax.random.key(0))
    made = {"mean": jnp.zeros, "var": jnp.ones}
    return jax.tree.map_with_path(
        lambda path, leaf: made[path[-1].key](leaf.shape), first["batch_stats"]
    )


def module(config: Config) -> nn.Module:
    """The configuration's model."""
    return {"mlp": MLP, "transformer": Transformer, "resnet": ResNet}[config.kind](config)
