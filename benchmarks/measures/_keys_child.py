"""The process of `keys`: the same draw with a key for each example, and with one for all."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from .. import _configs
from .._configs import CONFIGS
from ..contenders import floor
from ..models import _equinox, _flat

_EXAMPLES = 128
_RATE = 0.1
_DRAWS = 16
_SECONDS = 0.2

Call = Callable[[], None]


def times(
    subjects: list[str], implementations: list[str], turns: int, calls: int
) -> dict[str, list[float]]:
    """Microseconds of one step, by subject, key implementation and way, turn by turn.

    Args:
        subjects: Which of them.
        implementations: Names that `jax.random.key(impl=...)` knows.
        turns: How often each runs.
        calls: Calls in a turn; 0 for as many as take a fifth of a second.
    """
    made: dict[str, tuple[Call, int]] = {}
    for subject in subjects:
        for implementation in implementations:
            key = jax.random.key(0, impl=implementation)
            for way in ("example", "batch"):
                made[f"{subject}/{implementation}/{way}"] = _SUBJECTS[subject](key, way)
    counts = {label: calls or _calls(call) for label, (call, _) in made.items()}
    found: dict[str, list[float]] = {label: [] for label in made}
    for _ in range(turns):
        for label, (call, steps) in made.items():
            start = time.perf_counter()
            for _ in range(counts[label]):
                call()
            taken = time.perf_counter() - start
            found[label].append(1e6 * taken / counts[label] / steps)
    return found


def _calls(call: Call) -> int:
    call()
    start = time.perf_counter()
    call()
    return max(1, round(_SECONDS / (time.perf_counter() - start)))


def _draw(width: int) -> Callable[[jax.Array, str], tuple[Call, int]]:
    """Dropout on one array, a draw a dispatch: in a loop inside the program XLA would not spread
    it over the cores."""

    def make(key: jax.Array, way: str) -> tuple[Call, int]:
        def once(x, step):
            step_key = jax.random.fold_in(key, step)
            if way == "batch":
                return _flat.dropout(x, _RATE, step_key)
            places = jnp.arange(_EXAMPLES)
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(step_key, places)
            return jax.vmap(lambda row, own: _flat.dropout(row, _RATE, own))(x, keys)

        program = jax.jit(once)
        x = jnp.ones((_EXAMPLES, width))

        def call() -> None:
            for step in range(_DRAWS):
                dropped = program(x, step)
            jax.block_until_ready(dropped)

        return call, _DRAWS

    return make


def _floor(key: jax.Array, way: str) -> tuple[Call, int]:
    config = CONFIGS["ref"]
    flat = floor.Flat(config, _configs.weights(config), key)
    program = jax.jit(floor.full_program(flat, way), donate_argnums=0)
    batches = _configs.batches(config)
    state = [flat.leaves]

    def call() -> None:
        leaves = state.pop()
        for inputs, labels in batches:
            leaves, _metrics = program(leaves, inputs, labels)
        state.append(jax.block_until_ready(leaves))

    return call, len(batches)


def _batched_loss(model, batch, key):
    """One key for the whole batch: what a user writes with `batched=True`."""
    inputs, labels = batch
    x = jax.vmap(model.layers[0])(inputs)
    x = model.dropout(jax.nn.relu(x), key=key)
    logits = jax.vmap(model.layers[1])(x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses), {"accuracy": jnp.mean(jnp.argmax(logits, -1) == labels)}


def _treadle(key: jax.Array, way: str) -> tuple[Call, int]:
    import treadle

    from ..contenders.treadle_step import loss_fn

    config = CONFIGS["ref"]
    optimizer = optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)
    if way == "batch":
        step = treadle.TrainStep(_batched_loss, optimizer, batched=True)
    else:
        step = treadle.TrainStep(loss_fn, optimizer)
    batches = _configs.batches(config)
    model = _equinox.model(config, _configs.weights(config))
    states = [step.init(model, key=key)]

    def call() -> None:
        state = states.pop()
        for batch in batches:
            state, _metrics = step(state, batch)
        states.append(jax.block_until_ready(state))

    return call, len(batches)


_SUBJECTS: dict[str, Callable[[jax.Array, str], tuple[Call, int]]] = {
    "draw-256": _draw(256),
    "draw-4096": _draw(4096),
    "floor": _floor,
    "treadle": _treadle,
}
