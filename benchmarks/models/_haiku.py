"""The models in Haiku modules."""

import haiku as hk
import jax
import jax.numpy as jnp

from .._configs import NUM_CLASSES, Config, Weights


def _mlp(config: Config, x, train: bool):
    *hidden, last = config.sizes[1:]
    for index, size in enumerate(hidden):
        x = jax.nn.relu(hk.Linear(size, name=f"layers_{index}")(x))
        if train and config.dropout:
            x = hk.dropout(hk.next_rng_key(), config.dropout, x)
    return hk.Linear(last, name=f"layers_{len(hidden)}")(x)


def _norm(name: str, x):
    return hk.LayerNorm(axis=-1, create_scale=True, create_offset=True, eps=1e-5, name=name)(x)


def _block(config: Config, name: str, x):
    width = config.width
    attention = hk.MultiHeadAttention(
        config.num_heads,
        width // config.num_heads,
        w_init=hk.initializers.VarianceScaling(),
        name=f"{name}_attention",
    )
    normed = _norm(f"{name}_norm1", x)
    x = x + attention(normed, normed, normed)
    hidden = jax.nn.gelu(hk.Linear(4 * width, name=f"{name}_up")(_norm(f"{name}_norm2", x)))
    return x + hk.Linear(width, name=f"{name}_down")(hidden)


def _transformer(config: Config, x, train: bool):
    for index in range(config.depth):
        x = _block(config, f"blocks_{index}", x)
    return hk.Linear(NUM_CLASSES, name="head")(jnp.mean(_norm("norm", x), axis=-2))


def transformed(config: Config) -> hk.Transformed:
    """The configuration's model: `apply(params, key, inputs, train)`."""
    function = _mlp if config.kind == "mlp" else _transformer
    return hk.transform(lambda x, train: function(config, x, train))


def _name(path: str) -> str:
    """`blocks/0/attention/query` is Haiku's `blocks_0_attention/query`, and so on."""
    *parts, last = path.split("/")
    if parts and parts[-1] == "attention":
        return f"{'_'.join(parts)}/{'linear' if last == 'output' else last}"
    return "_".join([*parts, last])


def params(weights: Weights) -> hk.Params:
    """The first weights, as `transformed(...).init` lays them out."""
    found = {}
    for path in {name.rpartition("/")[0] for name in weights}:
        weight, bias = weights[f"{path}/weight"], jnp.array(weights[f"{path}/bias"])
        if weight.ndim == 1:
            found[_name(path)] = {"scale": jnp.array(weight), "offset": bias}
        else:
            found[_name(path)] = {"w": jnp.array(weight.T), "b": bias}
    return found
