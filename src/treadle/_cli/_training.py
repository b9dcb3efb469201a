"""What the demo trains, and how: the part that looks like a user's own script."""

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from .. import data, nn
from .._custom_types import Example, Metrics, Model, PRNGKey, Scalar
from .._evaluate import EvalStep
from .._loop import History, fit
from .._state import TrainState
from .._step import TrainStep
from ..callbacks import Throughput
from ._folder import Settings
from ._prepare import Images

BATCH_SIZE = 64
LEARNING_RATE = 2e-3
STEPS = 2_000
WIDTH = 512
DEPTH = 2
DROPOUT = 0.4
_EVALS = 20
_EVAL_BATCH_SIZE = 512


def loss_fn(model: Model, example: Example, key: PRNGKey) -> tuple[Scalar, Metrics]:
    """The cross-entropy of one example, and whether the model gets it right."""
    x, y = example
    logits = model(x, key=key)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return loss, {"accuracy": jnp.argmax(logits) == y}


def metric_fn(model: Model, example: Example) -> Metrics:
    """The same figures of a model that does not drop out."""
    x, y = example
    logits = model(x)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return {"accuracy": jnp.argmax(logits) == y, "loss": loss}


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything that training needs.

    Attributes:
        model: As it begins.
        step: The training step.
        eval_step: What is measured.
        batches: To train on, without end.
        test_batches: To measure on.
        key: Of all draws while training.
        eval_every: Steps between two measurements.
    """

    model: nn.MLP
    step: TrainStep
    eval_step: EvalStep
    batches: Any
    test_batches: Any
    key: PRNGKey
    eval_every: int


def settings_of(name: str, images: Images, seed: int, num_steps: int) -> Settings:
    """What must agree for a run to be continued."""
    digest = 0
    for array in (images.x_train, images.y_train, images.x_test, images.y_test):
        digest = zlib.crc32(array.tobytes(), digest)
    # Not `num_steps` itself, so that a run that was cut short by `--steps` can go on.
    return Settings(name, f"{digest:08x}", seed, max(num_steps, STEPS))


def set_up(images: Images, settings: Settings) -> Setup:
    """The model, its step and its batches."""
    model_key, data_key, training_key = jax.random.split(jax.random.key(settings.seed), 3)
    model = nn.MLP(
        images.x_train.shape[1],
        images.num_classes,
        WIDTH,
        DEPTH,
        dropout=DROPOUT,
        key=model_key,
    )
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, settings.schedule_steps)
    train = (images.x_train, images.y_train)
    test = (images.x_test, images.y_test)
    return Setup(
        model=model,
        step=TrainStep(loss_fn, optax.adamw(schedule)),
        eval_step=EvalStep(metric_fn),
        batches=data.arrays(train, min(BATCH_SIZE, len(images.y_train)), key=data_key),
        test_batches=data.arrays(
            test,
            min(_EVAL_BATCH_SIZE, len(images.y_test)),
            key=data_key,
            shuffle=False,
            drop_remainder=False,
            epochs=1,
        ),
        key=training_key,
        eval_every=settings.schedule_steps // _EVALS,
    )


def train(setup: Setup, num_steps: int, run: Path) -> tuple[TrainState, History, float | None]:
    """Trains up to step `num_steps`, going on where the run folder ends.

    Returns:
        What `fit` gives, and examples a second (`None` where nothing was left to do).
    """
    throughput = Throughput()
    state, history = fit(
        setup.step,
        setup.step.init(setup.model, key=setup.key),
        setup.batches,
        num_steps=num_steps,
        eval=(setup.eval_step, setup.test_batches),
        eval_every=setup.eval_every,
        log_every=10,
        run=run,
        callbacks=[throughput],
    )
    return state, history, throughput.examples_per_second
