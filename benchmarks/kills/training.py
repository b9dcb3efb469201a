"""The training that is killed: dropout, BatchNorm, Adam, an averaged model, shuffled data."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import treadle

NUM_STEPS = 24
"""Of four epochs, the last of which is not finished."""
BATCH = 8
_EXAMPLES = 52
_SAVE_EVERY = 3
_EVAL_EVERY = 4


class Net(eqx.Module):
    """A classifier whose bits depend on every draw, and on every example that came before."""

    first: Any
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    last: Any

    def __init__(self):
        # From NumPy, where drawing compiles nothing: of each process's second that took a quarter.
        generator = np.random.default_rng(2)
        self.first = generator.normal(size=(8, 6)).astype(np.float32)
        self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)
        self.last = generator.normal(size=(3, 8)).astype(np.float32)

    def __call__(self, x: Any, model_state: Any, *, key: Any = None) -> Any:
        hidden, model_state = self.norm(self.first @ x, model_state)
        return self.last @ self.dropout(jax.nn.tanh(hidden), key=key), model_state


def _loss(model: Any, model_state: Any, example: Any, key: Any) -> Any:
    logits, model_state = model(example["x"], model_state, key=key)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, example["y"])
    # Which examples the batch is made of, in its order, in each row of `metrics.jsonl`.
    here = jnp.arange(BATCH) == jax.lax.axis_index("batch")
    examples = jnp.where(here, example["index"], 0).astype(jnp.float32)
    return (loss, {"examples": treadle.Sum(examples)}), model_state


def _metric(model: Any, model_state: Any, example: Any) -> Any:
    logits, _ = model(example["x"], model_state)
    return {"loss": optax.softmax_cross_entropy_with_integer_labels(logits, example["y"])}


def _examples(count: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "x": generator.normal(size=(count, 6)).astype(np.float32),
        "y": generator.integers(0, 3, size=count).astype(np.int32),
        "index": np.arange(count, dtype=np.int32),
    }


def train(
    run: pathlib.Path, *, callbacks: Sequence[treadle.Callback] = (), progress: bool = False
) -> tuple[treadle.TrainState, treadle.History]:
    """The script: the same call begins, and goes on."""
    step = treadle.TrainStep(_loss, optax.adam(1e-2), stateful=True, ema=0.9)
    model, model_state = eqx.nn.make_with_state(Net)()
    state = step.init(model, key=jax.random.key(0), model_state=model_state)
    data = treadle.data.arrays(_examples(_EXAMPLES, 0), BATCH, key=jax.random.key(2), epochs=5)
    held_out = treadle.data.arrays(_examples(BATCH, 1), BATCH, key=None, shuffle=False, epochs=1)
    stopping = treadle.callbacks.EarlyStopping("loss", mode="min", patience=100)
    table = treadle.callbacks.Log(treadle.track.CSV(run / "metrics.csv"), 1)
    return treadle.fit(
        step,
        state,
        data,
        num_steps=NUM_STEPS,
        callbacks=[stopping, table, *callbacks],
        eval=(treadle.EvalStep(_metric, stateful=True), held_out),
        eval_every=_EVAL_EVERY,
        checkpoint_every=_SAVE_EVERY,
        log_every=1,
        run=run,
        progress=progress,
    )


class Watch(treadle.Callback):
    """Calls a function of each step that was taken."""

    def __init__(self, tell: Callable[[int], Any]):
        self._tell = tell

    def on_step(self, ctx: treadle.callbacks.Context) -> None:
        """Tells of it."""
        self._tell(ctx.step)
