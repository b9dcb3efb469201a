"""Numbers that PyTorch and treadle are both filled with, and where they stand in either.

Every array is drawn from NumPy by its name in PyTorch's `state_dict`, so that neither library is
needed to know what the other was given.
"""

import json
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

FIGURES = pathlib.Path(__file__).with_name("torch_figures.json")
MOMENTUM = 0.9
NETS = {
    "resnet18": {"depth": 18, "width": 64, "in_channels": 3, "stem": "imagenet"},
    "resnet50": {"depth": 50, "width": 8, "in_channels": 1, "stem": "small"},
}
NUM_CLASSES = 10
SIZES = {"resnet18": 64, "resnet50": 16}
BATCH = 4


def drawn(name, shape):
    """The array that stands under `name` in PyTorch's state dict, or the input of that name."""
    rng = np.random.default_rng(list(name.encode()))
    numbers = rng.standard_normal(shape)
    if name.endswith("running_var"):
        numbers = np.exp(0.2 * numbers)
    elif len(shape) == 4 and name.endswith("weight"):
        numbers *= np.sqrt(2 / (shape[0] * shape[2] * shape[3]))
    elif len(shape) == 2 and name.endswith("weight"):
        numbers /= np.sqrt(shape[1])
    elif name.endswith("weight"):
        # Maps grow with every sum, and so do logits: to a size at which 1e-4 is little.
        numbers = 0.9 * np.exp(0.2 * numbers)
    elif not name.startswith("input"):
        numbers *= 0.1
    return numbers.astype(np.float32)


def images_of(net):
    size = SIZES[net]
    return drawn(f"input of {net}", (BATCH, NETS[net]["in_channels"], size, size))


def labels_of(count, classes):
    return (np.arange(count) * 7 % classes).astype(np.int32)


def modules_of(model):
    """PyTorch's name of each layer of a `treadle.nn.ResNet`, with the layer."""
    yield "conv1", model.stem_conv.conv
    yield "bn1", model.stem_conv.norm
    for i, stage in enumerate(model.stages, 1):
        for j, block in enumerate(stage):
            for k, unit in enumerate(block.convs, 1):
                yield f"layer{i}.{j}.conv{k}", unit.conv
                yield f"layer{i}.{j}.bn{k}", unit.norm
            if block.shortcut is not None:
                yield f"layer{i}.{j}.downsample.0", block.shortcut.conv
                yield f"layer{i}.{j}.downsample.1", block.shortcut.norm
    yield "fc", model.readout


def parameters_of(model, modules_of=modules_of):
    """PyTorch's name of each parameter, with the array."""
    return {
        f"{name}.{part}": getattr(module, part)
        for name, module in modules_of(model)
        for part in ("weight", "bias")
        if getattr(module, part) is not None
    }


def filled(model, modules_of=modules_of):
    """The model with the parameters that belong to their names."""
    values = [
        jnp.asarray(drawn(name, leaf.shape)).reshape(leaf.shape)
        for name, leaf in parameters_of(model, modules_of).items()
    ]
    return eqx.tree_at(lambda m: list(parameters_of(m, modules_of).values()), model, values)


def norms_of(model, modules_of=modules_of):
    return {n: m for n, m in modules_of(model) if isinstance(m, eqx.nn.BatchNorm)}


def with_statistics(norm, state, mean, var, count=0):
    """The state with PyTorch's running statistics in it.

    Equinox divides what it holds by 1 - momentum**count where count is not 0. So a count of 0 or of
    very many steps takes the numbers as they are; the first step of further training makes 1 of 0.
    """
    state = state.set(norm.batch_state_index, (jnp.asarray(mean), jnp.asarray(var)))
    return state.set(norm.batch_counter, jnp.full_like(state.get(norm.batch_counter), count))


def state_filled(model, state):
    state = jax.tree.map(lambda leaf: leaf, state)  # Setting would use the caller's up.
    for name, norm in norms_of(model).items():
        mean, var = (
            drawn(f"{name}.{part}", (norm.input_size,)) for part in ("running_mean", "running_var")
        )
        state = with_statistics(norm, state, mean, var)
    return state


def statistics_of(norm, state, examples):
    """What PyTorch's buffers would be: its variances are unbiased, and begin at 1 as these do."""
    mean, var = state.get(norm.batch_state_index)
    left = MOMENTUM ** int(state.get(norm.batch_counter))
    bessel = examples / (examples - 1)
    return np.asarray(mean), left + bessel * (np.asarray(var) - left)


def recorded():
    return json.loads(FIGURES.read_text(encoding="utf-8"))
