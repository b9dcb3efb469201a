"""The demo's residual network: a model with a state, as a user's own script would train it."""

import dataclasses
import itertools
from typing import Any

import equinox as eqx
import jax
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

LEARNING_RATE = 5e-3
WEIGHT_DECAY = 0.05
DEPTH = 18
WIDTH = 16


def shifted(
    x: Float[jax.Array, "channels height width"], key: PRNGKey
) -> Float[jax.Array, "channels height width"]:
    """The image, moved by up to an eighth of its sides (an edge of zeros moves in)."""
    most = [max(side // 8, 1) for side in x.shape[1:]]
    start = jax.random.randint(key, (2,), 0, 2 * jnp.array(most) + 1)
    wide = jnp.pad(x, ((0, 0), *((reach, reach) for reach in most)))
    return jax.lax.dynamic_slice(wide, (0, start[0], start[1]), x.shape)


def loss_fn(
    model: Model, model_state: eqx.nn.State, example: Example, key: PRNGKey
) -> tuple[tuple[Scalar, Metrics], eqx.nn.State]:
    """The cross-entropy of one shifted example, and what the batch norms keep of the batch."""
    x, y = example
    logits, model_state = model(shifted(x, key), model_state)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return (loss, {"accuracy": jnp.argmax(logits) == y}), model_state


def metric_fn(model: Model, model_state: eqx.nn.State, example: Example) -> Metrics:
    """The same figures of images as they are, normalised by the running statistics."""
    x, y = example
    logits, _ = model(x, model_state)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return {"accuracy": jnp.argmax(logits) == y, "loss": loss}


def _make(shape: tuple[int, ...], num_classes: int, key: PRNGKey) -> tuple[nn.ResNet, eqx.nn.State]:
    make = eqx.nn.make_with_state(nn.ResNet)
    return make(DEPTH, num_classes, in_channels=shape[0], width=WIDTH, stem="small", key=key)


def _make_step(schedule_steps: int) -> TrainStep:
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, LEARNING_RATE, max(schedule_steps // 10, 1), schedule_steps
    )
    return TrainStep(loss_fn, optax.adamw(schedule, weight_decay=WEIGHT_DECAY), stateful=True)


def _channels_first(
    rows: Float[np.ndarray, "n size"], shape: tuple[int, ...]
) -> Float[np.ndarray, "n channels height width"]:
    height, width, *colours = shape
    images = rows.reshape(len(rows), height, width, *(colours or [1]))
    return np.ascontiguousarray(np.moveaxis(images, -1, 1))


def _describe(model: Any, model_state: eqx.nn.State | None, x: np.ndarray) -> Summary:
    """The model stage by stage: all its layers would fill two screens."""
    whole = summary(model, x, model_state)
    rows = []
    for part, group in itertools.groupby(whole.rows, lambda row: _part(row.path)):
        layers = list(group)
        # The stages are of blocks, whose last row may be a shortcut's, which has the same shape.
        inside = {row.path.split("/")[2] for row in layers} if part.startswith("stages") else ()
        rows.append(
            dataclasses.replace(
                layers[-1],
                path=part,
                type=f"{len(inside)} blocks" if inside else layers[0].type,
                arrays=(f"{sum(len(row.arrays) for row in layers)} arrays",),
                count=sum(row.count for row in layers),
                nbytes=sum(row.nbytes for row in layers),
                trainable_count=sum(row.trainable_count for row in layers),
                trainable_nbytes=sum(row.trainable_nbytes for row in layers),
            )
        )
    return Summary(tuple(rows), whole.output)


def _part(path: str) -> str:
    first, *rest = path.split("/")
    return f"{first}/{rest[0]}" if first == "stages" else first


RESNET = Recipe(
    title=f"ResNet-{DEPTH}",
    folder="-resnet",
    steps=800,
    batch_size=64,
    train_label="train (batches, shifted)",
    as_input=_channels_first,
    make=_make,
    make_step=_make_step,
    make_eval_step=lambda: EvalStep(metric_fn, stateful=True),
    describe=_describe,
)
