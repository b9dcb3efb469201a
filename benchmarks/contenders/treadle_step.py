"""treadle: the user's own loop over `step(state, batch)`, and over `step.scan`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import treadle

from .. import _configs
from .._configs import STEPS_PER_CALL, Config
from ..models import _equinox
from ._base import Run


def loss_fn(model, example, key):
    """The loss of one example, and whether it was recognised."""
    x, y = example
    logits = model(x, key=key)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return loss, {"accuracy": jnp.argmax(logits) == y}


def make_step() -> treadle.TrainStep:
    """The step that every treadle contender takes."""
    optimizer = optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)
    return treadle.TrainStep(loss_fn, optimizer)


def state_loss(state: treadle.TrainState, batch: _configs.Pair) -> float:
    """The loss of the state's model on a batch, dropout off."""
    inputs, labels = batch
    logits = jax.vmap(eqx.nn.inference_mode(state.model))(jnp.asarray(inputs))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels))
    return float(jnp.mean(losses))


class StepLoop(Run):
    """The loop of the README."""

    def __init__(self, config: Config):
        model = _equinox.model(config, _configs.weights(config))
        self.batches = _configs.batches(config)
        self.step = make_step()
        self.state = self.step.init(model, key=jax.random.key(0))

    def run(self, num_steps: int) -> None:
        state, step = self.state, self.step
        for batch in _configs.stream(self.batches, num_steps):
            state, _metrics = step(state, batch)
        self.state = jax.block_until_ready(state)

    def loss(self) -> float:
        return state_loss(self.state, self.batches[0])


class ScanLoop(Run):
    """Fifty steps a call."""

    def __init__(self, config: Config):
        model = _equinox.model(config, _configs.weights(config))
        self.batches = _configs.batches(config)
        self.ready = _configs.stacked(self.batches)
        self.step = make_step()
        self.state = self.step.init(model, key=jax.random.key(0))

    def run(self, num_steps: int) -> None:
        state, scan = self.state, self.step.scan
        for _ in range(num_steps // STEPS_PER_CALL):
            state, _metrics = scan(state, self.ready)
        self.state = jax.block_until_ready(state)

    def loss(self) -> float:
        return state_loss(self.state, self.batches[0])


def build(config: Config) -> Run:
    return StepLoop(config)


def build_scan(config: Config) -> Run:
    return ScanLoop(config)
