"""The models as plain functions of flat arrays: what the floors compute, on one example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._configs import Config

Forward = Callable[[dict[str, Array], Array, Array | None], Array]
# Of a stateful model: `(weights, averages, inputs) -> (logits, averages)`, on a whole batch.
StatefulForward = Callable[[dict[str, Array], list[Array], Array], tuple[Array, list[Array]]]

_MOMENTUM = 0.99
_LEAVES = ("weight", "bias")


def linear(weights: dict[str, Array], name: str, x: Array) -> Array:
    """`x` may have leading axes: the floors call it on one example and on a whole batch."""
    return x @ weights[f"{name}/weight"].T + weights[f"{name}/bias"]


def dropout(x: Array, rate: float, key: Array) -> Array:
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


def _norm(weights: dict[str, Array], name: str, x: Array) -> Array:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.maximum(jnp.var(x, axis=-1, keepdims=True), 0.0)
    normed = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
    return normed * weights[f"{name}/weight"] + weights[f"{name}/bias"]


def _attention(weights: dict[str, Array], name: str, x: Array, num_heads: int) -> Array:
    def heads(role: str) -> Array:
        projected = linear(weights, f"{name}/{role}", x)
        return projected.reshape(*x.shape[:-1], num_heads, -1)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = jnp.einsum("...shd,...Shd->...hsS", query / jnp.sqrt(query.shape[-1]), key)
    mixed = jnp.einsum("...hsS,...Shd->...shd", jax.nn.softmax(scores, axis=-1), value)
    return linear(weights, f"{name}/output", mixed.reshape(x.shape))


def _mlp(config: Config) -> Forward:
    def forward(weights, x, key):
        last = config.depth - 1
        draws = config.dropout > 0 and key is not None
        keys = jax.random.split(key, last) if draws else None
        for index in range(config.depth):
            x = linear(weights, f"layers/{index}", x)
            if index < last:
                x = jax.nn.relu(x)
                if keys is not None:
                    x = dropout(x, config.dropout, keys[index])
        return x

    return forward


def _transformer(config: Config) -> Forward:
    def forward(weights, x, key):
        for index in range(config.depth):
            block = f"blocks/{index}"
            normed = _norm(weights, f"{block}/norm1", x)
            x = x + _attention(weights, f"{block}/attention", normed, config.num_heads)
            normed = _norm(weights, f"{block}/norm2", x)
            hidden = jax.nn.gelu(linear(weights, f"{block}/up", normed))
            x = x + linear(weights, f"{block}/down", hidden)
        pooled = jnp.mean(_norm(weights, "norm", x), axis=-2)
        return linear(weights, "head", pooled)

    return forward


def forward(config: Config) -> Forward:
    """The model's function: `(weights, inputs, key) -> logits`, on one example or on a batch.

    With a `key` of `None` dropout is off. On a batch one key draws the masks of all examples.
    """
    return _mlp(config) if config.kind == "mlp" else _transformer(config)


def averages(weights: dict[str, Array]) -> list[Array]:
    """A stateful model's first running means and variances, a pair for each BatchNorm."""
    scales = [array for name, array in weights.items() if name.endswith("norm/weight")]
    return [made(scale.shape) for scale in scales for made in (jnp.zeros, jnp.ones)]


def _conv_norm(
    weights: dict[str, Array], name: str, x: Array, stride: int
) -> tuple[Array, list[Array]]:
    """A convolution and BatchNorm, channels first; and the batch's mean and variance."""
    kernel = weights[f"{name}/conv/weight"]
    border = kernel.shape[-1] // 2
    x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(border, border)] * 2)
    mean = jnp.mean(x, axis=(0, 2, 3), keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=(0, 2, 3), keepdims=True)
    scale, shift = (weights[f"{name}/norm/{leaf}"].reshape(mean.shape) for leaf in _LEAVES)
    normed = (x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale + shift
    return normed, [mean.reshape(-1), variance.reshape(-1)]


def stateful_forward(config: Config) -> StatefulForward:
    """The function of a model with BatchNorm, in training."""

    def forward(weights, averages, inputs):
        x, seen = _conv_norm(weights, "stem", inputs, 1)
        x = jax.nn.relu(x)
        for index in range(config.depth):
            block = f"blocks/{index}"
            stride = 2 if f"{block}/skip/conv/weight" in weights else 1
            hidden, first = _conv_norm(weights, f"{block}/first", x, stride)
            hidden, second = _conv_norm(weights, f"{block}/second", jax.nn.relu(hidden), 1)
            seen += first + second
            if stride != 1:
                x, skip = _conv_norm(weights, f"{block}/skip", x, stride)
                seen += skip
            x = jax.nn.relu(x + hidden)
        moved = [
            _MOMENTUM * old + (1 - _MOMENTUM) * new for old, new in zip(averages, seen, strict=True)
        ]
        return linear(weights, "head", jnp.mean(x, axis=(2, 3))), moved

    return forward
