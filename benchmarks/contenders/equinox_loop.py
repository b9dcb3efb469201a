"""The loop people write by hand: `eqx.filter_jit` over a model and an optimizer's state."""

from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .. import _configs
from .._configs import Config
from ..models import _equinox
from ._base import Run

Donate: TypeAlias = Literal["none", "all"]


def _batch_loss(model, inputs, labels, keys):
    logits = jax.vmap(lambda x, key: model(x, key=key))(inputs, keys)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def make_step(optimizer: optax.GradientTransformation, donate: Donate):
    """The step as Equinox's own examples have it; keys are split inside, which favours it."""

    @eqx.filter_jit(donate=donate)
    def step(model, opt_state, key, inputs, labels):
        key, draw = jax.random.split(key)
        keys = jax.random.split(draw, inputs.shape[0])
        compute = eqx.filter_value_and_grad(_batch_loss, has_aux=True)
        (loss, accuracy), grads = compute(model, inputs, labels, keys)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return eqx.apply_updates(model, updates), opt_state, key, loss, accuracy

    return step


def _stateful_batch_loss(model, model_state, inputs, labels):
    logits, model_state = _equinox.batched(model, model_state, inputs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    return jnp.mean(losses), (model_state, accuracy)


def make_stateful_step(optimizer: optax.GradientTransformation, donate: Donate):
    """The step of a model with BatchNorm, as Equinox's own example has it."""

    @eqx.filter_jit(donate=donate)
    def step(model, model_state, opt_state, inputs, labels):
        compute = eqx.filter_value_and_grad(_stateful_batch_loss, has_aux=True)
        (loss, (model_state, accuracy)), grads = compute(model, model_state, inputs, labels)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return eqx.apply_updates(model, updates), model_state, opt_state, loss, accuracy

    return step


def make_optimizer() -> optax.GradientTransformation:
    return optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)


class EquinoxLoop(Run):
    """The loop over `make_step`; `step` for one that is compiled already."""

    def __init__(self, config: Config, donate: Donate, member: int = 0, step: Any = None):
        self.model = _equinox.model(config, _configs.weights(config, member))
        self.batches = _configs.batches(config)
        optimizer = make_optimizer()
        self.opt_state = optimizer.init(eqx.filter(self.model, eqx.is_inexact_array))
        self.key = jax.random.key(0)
        self.step = make_step(optimizer, donate) if step is None else step

    def run(self, num_steps: int) -> None:
        model, opt_state, key, step = self.model, self.opt_state, self.key, self.step
        for inputs, labels in _configs.stream(self.batches, num_steps):
            model, opt_state, key, _loss, _accuracy = step(model, opt_state, key, inputs, labels)
        jax.block_until_ready((eqx.filter(model, eqx.is_array), opt_state))
        self.model, self.opt_state, self.key = model, opt_state, key

    def loss(self) -> float:
        return _equinox.loss(self.model, None, self.batches[0])


class StatefulEquinoxLoop(Run):
    """The loop over `make_stateful_step`."""

    def __init__(self, config: Config, donate: Donate):
        self.model, self.model_state = _equinox.model(config, _configs.weights(config))
        self.batches = _configs.batches(config)
        optimizer = make_optimizer()
        self.opt_state = optimizer.init(eqx.filter(self.model, eqx.is_inexact_array))
        self.step = make_stateful_step(optimizer, donate)

    def run(self, num_steps: int) -> None:
        carry, step = (self.model, self.model_state, self.opt_state), self.step
        for inputs, labels in _configs.stream(self.batches, num_steps):
            *carry, _loss, _accuracy = step(*carry, inputs, labels)
        jax.block_until_ready(eqx.filter(carry, eqx.is_array))
        self.model, self.model_state, self.opt_state = carry

    def loss(self) -> float:
        return _equinox.loss(self.model, self.model_state, self.batches[0])


class Members(Run):
    """A whole run of each, then the next; they share one compiled step."""

    def __init__(self, config: Config, size: int):
        step = make_step(make_optimizer(), donate="none")
        self.loops = [EquinoxLoop(config, "none", member, step) for member in range(size)]

    def run(self, num_steps: int) -> None:
        for loop in self.loops:
            loop.run(num_steps)

    def loss(self) -> float:
        return sum(loop.loss() for loop in self.loops) / len(self.loops)


def _loop(config: Config, donate: Donate) -> Run:
    return (StatefulEquinoxLoop if config.stateful else EquinoxLoop)(config, donate)


def build(config: Config) -> Run:
    return _loop(config, donate="none")


def build_donated(config: Config) -> Run:
    return _loop(config, donate="all")


def build_members(config: Config, size: int) -> Run:
    return Members(config, size)
