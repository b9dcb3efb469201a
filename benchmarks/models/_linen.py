"""The models in Flax Linen layers."""

import flax.linen as nn
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


def params(config: Config, weights: Weights) -> dict:
    """The configuration's first weights, as `module.init(...)["params"]` lays them out."""
    if config.kind == "mlp":
        return {f"layers_{i}": _dense(weights, f"layers/{i}") for i in range(config.depth)}
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


def module(config: Config) -> nn.Module:
    """The configuration's model."""
    return MLP(config) if config.kind == "mlp" else Transformer(config)
