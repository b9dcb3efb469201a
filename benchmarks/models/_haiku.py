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


def _conv_norm(name: str, x, train: bool, width: int, side: int = 3, stride: int = 1):
    border = (side // 2, side // 2)
    conv = hk.Conv2D(
        width, side, stride, padding=[border] * 2, with_bias=False, name=f"{name}_conv"
    )
    return hk.BatchNorm(True, True, decay_rate=0.99, name=f"{name}_norm")(conv(x), train)


def _resnet(config: Config, x, train: bool):
    x = x.reshape(-1, *x.shape[2:], 1)  # Channels last, as Haiku has them.
    x = jax.nn.relu(_conv_norm("stem", x, train, config.width))
    for index, width in enumerate(config.block_widths):
        name = f"blocks_{index}"
        stride = 1 if x.shape[-1] == width else 2
        hidden = jax.nn.relu(_conv_norm(f"{name}_first", x, train, width, stride=stride))
        hidden = _conv_norm(f"{name}_second", hidden, train, width)
        if stride != 1:
            x = _conv_norm(f"{name}_skip", x, train, width, side=1, stride=stride)
        x = jax.nn.relu(x + hidden)
    return hk.Linear(NUM_CLASSES, name="head")(jnp.mean(x, axis=(-3, -2)))


def transformed(config: Config) -> hk.TransformedWithState:
    """The configuration's model: `apply(params, averages, key, inputs, train)`."""
    function = {"mlp": _mlp, "transformer": _transformer, "resnet": _resnet}[config.kind]
    return hk.transform_with_state(lambda x, train: function(config, x, train))


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
        weight = weights[f"{path}/weight"]
        if weight.ndim == 4:
            found[_name(path)] = {"w": jnp.array(weight.transpose(2, 3, 1, 0))}
            continue
        bias = jnp.array(weights[f"{path}/bias"])
        if weight.ndim == 1:
            # BatchNorm keeps the axes that it is broadcast along.
            convolved = f"{path.removesuffix('/norm')}/conv/weight" in weights
            shape = (1, 1, 1, -1) if convolved else (-1,)
            found[_name(path)] = {
                "scale": jnp.array(weight).reshape(shape),
                "offset": bias.reshape(shape),
            }
        else:
            found[_name(path)] = {"w": jnp.array(weight.T), "b": bias}
    return found


def averages(config: Config) -> hk.MutableState:
    """A stateful model's first running averages; of others, nothing."""
    if not config.stateful:
        return {}
    inputs = jnp.zeros((1, *config.input_shape))
    return jax.jit(lambda key: transformed(config).init(key, inputs, True)[1])(jax.random.key(0))
