"""treadle: the user's own loop over `step(state, batch)`, and over `step.scan`."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import treadle

from .. import _configs
from .._configs import Config
from ..models import _equinox
from ._base import Run


def loss_fn(model, example, key):
    """The loss of one example, and whether it was recognised."""
    x, y = example
    logits = model(x, key=key)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return loss, {"accuracy": jnp.argmax(logits) == y}


def stateful_loss_fn(model, model_state, example, key):
    """The same of a model with BatchNorm, which draws nothing; and its next state."""
    x, y = example
    logits, model_state = model(x, model_state)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return (loss, {"accuracy": jnp.argmax(logits) == y}), model_state


def make_step(
    config: Config, optimizer: optax.GradientTransformation | None = None, **options: Any
) -> treadle.TrainStep:
    """The step that every treadle contender takes, or one with other options."""
    optimizer = optimizer or optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)
    if config.stateful:
        return treadle.TrainStep(stateful_loss_fn, optimizer, stateful=True, **options)
    return treadle.TrainStep(loss_fn, optimizer, **options)


def first_state(step: treadle.TrainStep, config: Config) -> treadle.TrainState:
    """The configuration's model at the start of its training."""
    model = _equinox.model(config, _configs.weights(config))
    if config.stateful:
        model, model_state = model
        return step.init(model, key=jax.random.key(0), model_state=model_state)
    return step.init(model, key=jax.random.key(0))


def state_loss(state: treadle.TrainState, config: Config) -> float:
    """The loss of the state's model on the first batch, dropout off."""
    # A model that is kept in few bits is read in many.
    model = jax.tree.map(
        lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, state.model
    )
    model_state = state.model_state if config.stateful else None
    return _equinox.loss(model, model_state, _configs.batches(config)[0])


class StepLoop(Run):
    """The loop of the README."""

    def __init__(self, config: Config, **options: Any):
        self.config = config
        self.batches = _configs.batches(config)
        self.step = make_step(config, **options)
        self.state = first_state(self.step, config)

    def run(self, num_steps: int) -> None:
        state, step = self.state, self.step
        for batch in _configs.stream(self.batches, num_steps):
            state, _metrics = step(state, batch)
        self.state = jax.block_until_ready(state)

    def loss(self) -> float:
        return state_loss(self.state, self.config)


class ScanLoop(Run):
    """Many steps a call."""

    def __init__(self, config: Config):
        self.config = config
        self.ready = _configs.ready(config)
        self.step = make_step(config)
        self.state = first_state(self.step, config)

    def run(self, num_steps: int) -> None:
        state, scan = self.state, self.step.scan
        for batches in itertools.islice(self.ready, num_steps // self.config.steps_per_call):
            state, _metrics = scan(state, batches)
        self.state = jax.block_until_ready(state)

    def loss(self) -> float:
        return state_loss(self.state, self.config)


def build(config: Config) -> Run:
    return StepLoop(config)


def build_scan(config: Config) -> Run:
    return ScanLoop(config)
