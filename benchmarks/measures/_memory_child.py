"""The fresh process of `memory`: one program's aliased bytes, or one training's peak."""

import functools
import itertools
import resource
import sys
from typing import Any

import equinox as eqx
import jax
import optax

from .. import _configs
from .._configs import CONFIGS, Config
from ..contenders import floor
from ..models import _equinox

_STEPS = 4


def aliased(config: str) -> dict[str, dict[str, int]]:
    """Bytes of the state, and how many of them the compiled step gives back in place."""
    from ..contenders.treadle_step import first_state, make_step

    chosen = CONFIGS[config]
    batch = _configs.batches(chosen)[0]
    step = make_step(chosen)
    compiled = step.compile(first_state(step, chosen), batch)
    flat = floor.Flat(chosen, _configs.weights(chosen))
    program = jax.jit(floor.full_program(flat), donate_argnums=0)
    floors = program.lower(flat.leaves, *batch).compile().memory_analysis()
    return {
        "treadle": {"aliased": compiled.aliased_bytes, "state": compiled.donated_bytes},
        "floor": {
            "aliased": floors.alias_size_in_bytes,
            "state": sum(leaf.nbytes for leaf in flat.leaves),
        },
    }


def peak(name: str, width: int) -> dict[str, int]:
    """The high-water mark of this process after a few steps of a model of that width.

    Four square layers: 1.07 GB of weights at a width of 8,192. All start from the same call.
    """
    config = Config("wide", "mlp", batch_size=1, input_size=width, width=width, depth=5)
    batches = _configs.batches(config, count=2)
    model = _random_model(config)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    # The list gives the model away: nobody up here keeps it alive.
    owned = [model]
    del model
    _WAYS[name](owned, config, batches)
    return {"model_bytes": size, "peak_bytes": _high_water()}


def _random_model(config: Config) -> Any:
    """Made by one program for each layer, with nothing left over."""

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def layer(key, in_size, out_size):
        bound = in_size**-0.5
        weight = jax.random.uniform(key, (out_size, in_size), minval=-bound, maxval=bound)
        return weight, jax.numpy.zeros(out_size)

    first = {}
    for index, (in_size, out_size) in enumerate(itertools.pairwise(config.sizes)):
        weight, bias = layer(jax.random.key(index), in_size, out_size)
        first |= {f"layers/{index}/weight": weight, f"layers/{index}/bias": bias}
    return _equinox.model(config, first)


def _floor(owned: list, config: Config, batches: list) -> None:
    names = [f"layers/{i}/{leaf}" for i in range(config.depth) for leaf in ("weight", "bias")]
    arrays = jax.tree.leaves(eqx.filter(owned.pop(), eqx.is_array))
    flat = floor.Flat(config, dict(zip(names, arrays, strict=True)))
    del arrays
    leaves, flat.leaves = flat.leaves, []
    program = jax.jit(floor.full_program(flat), donate_argnums=0)
    for inputs, labels in _configs.stream(batches, _STEPS):
        leaves, _metrics = program(leaves, inputs, labels)
    jax.block_until_ready(leaves)


def _treadle(owned: list, config: Config, batches: list) -> None:
    import treadle

    from ..contenders.treadle_step import make_step

    step = make_step(config)
    state = step.init(owned.pop(), key=jax.random.key(0), copy=False)
    stream = _configs.stream(batches, _STEPS)
    state, _ = treadle.fit(step, state, stream, num_steps=_STEPS)
    jax.block_until_ready(state)


def _equinox_loop(owned: list, config: Config, batches: list, donate: str) -> None:
    from ..contenders.equinox_loop import make_step

    optimizer = optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)
    step = make_step(optimizer, donate)
    model = owned.pop()
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    key = jax.random.key(0)
    for inputs, labels in _configs.stream(batches, _STEPS):
        model, opt_state, key, _loss, _accuracy = step(model, opt_state, key, inputs, labels)
    jax.block_until_ready(eqx.filter((model, opt_state), eqx.is_array))


_WAYS = {
    "floor": _floor,
    "treadle-fit": _treadle,
    "equinox": functools.partial(_equinox_loop, donate="none"),
    "equinox-donated": functools.partial(_equinox_loop, donate="all"),
}


def _high_water() -> int:
    """Linux counts in KiB, macOS in bytes."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
