"""The models in Keras layers."""

import keras

from .._configs import NUM_CLASSES, Config, Weights


def _mlp(config: Config, x):
    *hidden, last = config.sizes[1:]
    for index, size in enumerate(hidden):
        x = keras.layers.Dense(size, activation="relu", name=f"layers-{index}")(x)
        if config.dropout:
            x = keras.layers.Dropout(config.dropout)(x)
    return keras.layers.Dense(last, name=f"layers-{len(hidden)}")(x)


def _block(config: Config, name: str, x):
    layers, width = keras.layers, config.width
    attention = layers.MultiHeadAttention(
        config.num_heads, width // config.num_heads, name=f"{name}-attention"
    )
    normed = layers.LayerNormalization(epsilon=1e-5, name=f"{name}-norm1")(x)
    x = x + attention(normed, normed)
    normed = layers.LayerNormalization(epsilon=1e-5, name=f"{name}-norm2")(x)
    hidden = keras.ops.gelu(layers.Dense(4 * width, name=f"{name}-up")(normed), approximate=True)
    return x + layers.Dense(width, name=f"{name}-down")(hidden)


def _transformer(config: Config, x):
    for index in range(config.depth):
        x = _block(config, f"blocks-{index}", x)
    x = keras.layers.LayerNormalization(epsilon=1e-5, name="norm")(x)
    return keras.layers.Dense(NUM_CLASSES, name="head")(keras.ops.mean(x, axis=-2))


def _conv_norm(name: str, x, width: int, side: int = 3, stride: int = 1):
    layers = keras.layers
    x = layers.ZeroPadding2D(side // 2)(x) if side > 1 else x
    x = layers.Conv2D(width, side, stride, use_bias=False, name=f"{name}-conv")(x)
    return layers.BatchNormalization(momentum=0.99, epsilon=1e-5, name=f"{name}-norm")(x)


def _resnet(config: Config, x):
    x = keras.layers.Reshape((*config.input_shape[1:], 1))(x)  # Channels last, as Keras has them.
    x = keras.ops.relu(_conv_norm("stem", x, config.width))
    for index, width in enumerate(config.block_widths):
        name = f"blocks-{index}"
        stride = 1 if x.shape[-1] == width else 2
        hidden = keras.ops.relu(_conv_norm(f"{name}-first", x, width, stride=stride))
        hidden = _conv_norm(f"{name}-second", hidden, width)
        if stride != 1:
            x = _conv_norm(f"{name}-skip", x, width, side=1, stride=stride)
        x = keras.ops.relu(x + hidden)
    return keras.layers.Dense(NUM_CLASSES, name="head")(keras.ops.mean(x, axis=(-3, -2)))


def _attention_weights(config: Config, weights: Weights, name: str) -> list:
    width, heads = config.width, config.num_heads
    found = []
    for role in ("query", "key", "value"):
        kernel, bias = weights[f"{name}/{role}/weight"].T, weights[f"{name}/{role}/bias"]
        found += [kernel.reshape(width, heads, -1), bias.reshape(heads, -1)]
    kernel, bias = weights[f"{name}/output/weight"].T, weights[f"{name}/output/bias"]
    return [*found, kernel.reshape(heads, -1, width), bias]


def model(config: Config, weights: Weights) -> keras.Model:
    """The configuration's model, holding `weights`."""
    inputs = keras.Input(config.input_shape)
    function = {"mlp": _mlp, "transformer": _transformer, "resnet": _resnet}[config.kind]
    outputs = function(config, inputs)
    built = keras.Model(inputs, outputs)
    for layer in built.layers:
        name = layer.name.replace("-", "/")
        if name.endswith("attention"):
            layer.set_weights(_attention_weights(config, weights, name))
        elif name.endswith("conv"):
            layer.set_weights([weights[f"{name}/weight"].transpose(2, 3, 1, 0)])
        elif f"{name}/weight" in weights:
            first = [weights[f"{name}/weight"].T, weights[f"{name}/bias"]]
            # What is no weight (BatchNorm's running averages) stays as it is.
            layer.set_weights(first + layer.get_weights()[2:])
    return built
