"""Flax Linen's `TrainState` under `jax.jit`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

from .. import _configs
from .._configs import Config
from ..models import _linen
from ._base import Run


class AveragedState(TrainState):
    """A `TrainState` that also keeps BatchNorm's running averages."""

    batch_stats: Any


class LinenLoop(Run):
    """The step as Flax's own examples have it."""

    def __init__(self, config: Config, donate: bool):
        self.module = _linen.module(config)
        self.batches = _configs.batches(config)
        self.state = TrainState.create(
            apply_fn=self.module.apply,
            params=_linen.params(config, _configs.weights(config)),
            tx=optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY),
        )
        self.key = jax.random.key(0)

        def step(state, key, inputs, labels):
            rngs = {"dropout": jax.random.fold_in(key, state.step)}

            def batch_loss(params):
                logits = state.apply_fn({"params": params}, inputs, train=True, rngs=rngs)
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
                return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=-1) == labels)

            compute = jax.value_and_grad(batch_loss, has_aux=True)
            (loss, accuracy), grads = compute(state.params)
            return state.apply_gradients(grads=grads), loss, accuracy

        self.step = jax.jit(step, donate_argnums=(0,) if donate else ())

    def run(self, num_steps: int) -> None:
        state, key, step = self.state, self.key, self.step
        for inputs, labels in _configs.stream(self.batches, num_steps):
            state, _loss, _accuracy = step(state, key, inputs, labels)
        self.state = jax.block_until_ready(state)

    def loss(self) -> float:
        inputs, labels = self.batches[0]
        logits = self.module.apply({"params": self.state.params}, inputs, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return float(jnp.mean(losses))


class StatefulLinenLoop(Run):
    """The same for a model with BatchNorm."""

    def __init__(self, config: Config, donate: bool):
        self.module = _linen.module(config)
        self.batches = _configs.batches(config)
        self.state = AveragedState.create(
            apply_fn=self.module.apply,
            params=_linen.params(config, _configs.weights(config)),
            batch_stats=_linen.batch_stats(config),
            tx=optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY),
        )

        def step(state, inputs, labels):
            compute = jax.value_and_grad(self._batch_loss, has_aux=True)
            (loss, (accuracy, updated)), grads = compute(
                state.params, state.batch_stats, inputs, labels
            )
            state = state.apply_gradients(grads=grads, batch_stats=updated["batch_stats"])
            return state, loss, accuracy

        self.step = jax.jit(step, donate_argnums=(0,) if donate else ())

    def _batch_loss(self, params, batch_stats, inputs, labels):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = self.module.apply(variables, inputs, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), (jnp.mean(jnp.argmax(logits, axis=-1) == labels), updated)

    def run(self, num_steps: int) -> None:
        state, step = self.state, self.step
        for inputs, labels in _configs.stream(self.batches, num_steps):
            state, _loss, _accuracy = step(state, inputs, labels)
        self.state = jax.block_until_ready(state)

    def loss(self) -> float:
        batch = self.batches[0]
        return float(self._batch_loss(self.state.params, self.state.batch_stats, *batch)[0])


def _loop(config: Config, donate: bool) -> Run:
    return (StatefulLinenLoop if config.stateful else LinenLoop)(config, donate)


def build(config: Config) -> Run:
    return _loop(config, donate=False)


def build_donated(config: Config) -> Run:
    return _loop(config, donate=True)
