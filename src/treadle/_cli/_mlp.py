"""The demo's perceptron: the part that looks like a user's own script."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from .. import nn
from .._custom_types import Example, Metrics, Model, PRNGKey, Scalar
from .._evaluate import EvalStep
from .._step import TrainStep
from ..tree._summary import Summary, summary
from ._recipe import Recipe

LEARNING_RATE = 2e-3
WIDTH = 512
DEPTH = 2
DROPOUT = 0.4


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


def _make(shape: tuple[int, ...], num_classes: int, key: PRNGKey) -> tuple[nn.MLP, None]:
    (size,) = shape
    return nn.MLP(size, num_classes, WIDTH, DEPTH, dropout=DROPOUT, key=key), None


def _make_step(schedule_steps: int) -> TrainStep:
    return TrainStep(
        loss_fn, optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, schedule_steps))
    )


def _as_they_are(
    rows: Float[np.ndarray, "n size"], shape: tuple[int, ...]
) -> Float[np.ndarray, "n size"]:
    return rows


def _describe(model: Any, model_state: eqx.nn.State | None, x: np.ndarray) -> Summary:
    return summary(model, x)


MLP = Recipe(
    title="MLP",
    folder="",
    steps=2_000,
    batch_size=64,
    train_label="train (batches, with dropout)",
    as_input=_as_they_are,
    make=_make,
    make_step=_make_step,
    make_eval_step=lambda: EvalStep(metric_fn),
    describe=_describe,
)
