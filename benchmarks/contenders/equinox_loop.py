"""The loop people write by hand: `eqx.filter_jit` over a model and an optimizer's state."""

from typing import Literal, TypeAlias

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


class EquinoxLoop(Run):
    """The loop over `make_step`."""

    def __init__(self, config: Config, donate: Donate):
        self.model = _equinox.model(config, _configs.weights(config))
        self.batches = _configs.batches(config)
        optimizer = optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)
        self.opt_state = optimizer.init(eqx.filter(self.model, eqx.is_inexact_array))
        self.key = jax.random.key(0)
        self.step = make_step(optimizer, donate)

    def run(self, num_steps: int) -> None:
        model, opt_state, key, step = self.model, self.opt_state, self.key, self.step
        for inputs, labels in _configs.stream(self.batches, num_steps):
            model, opt_state, key, _loss, _accuracy = step(model, opt_state, key, inputs, labels)
        jax.block_until_ready((eqx.filter(model, eqx.is_array), opt_state))
        self.model, self.opt_state, self.key = model, opt_state, key

    def loss(self) -> float:
        model = eqx.nn.inference_mode(self.model)
        inputs, labels = self.batches[0]
        keys = jax.random.split(jax.random.key(0), len(labels))
        return float(eqx.filter_jit(_batch_loss)(model, inputs, labels, keys)[0])


def build(config: Config) -> Run:
    return EquinoxLoop(config, donate="none")


def build_donated(config: Config) -> Run:
    return EquinoxLoop(config, donate="all")
