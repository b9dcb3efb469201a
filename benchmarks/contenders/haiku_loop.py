"""Haiku's transformed functions under `jax.jit`."""

import jax
import jax.numpy as jnp
import optax

from .. import _configs
from .._configs import Config
from ..models import _haiku
from ._base import Run


class HaikuLoop(Run):
    """The step as Haiku's own examples have it."""

    def __init__(self, config: Config):
        self.apply = _haiku.transformed(config).apply
        self.config = config
        self.params = _haiku.params(_configs.weights(config))
        self.averages = _haiku.averages(config)
        self.batches = _configs.batches(config)
        optimizer = optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)
        self.opt_state = optimizer.init(self.params)
        self.key = jax.random.key(0)

        def batch_loss(params, averages, key, inputs, labels):
            logits, averages = self.apply(params, averages, key, inputs, True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
            return jnp.mean(losses), (averages, accuracy)

        def step(params, averages, opt_state, key, inputs, labels):
            key, draw = jax.random.split(key)
            compute = jax.value_and_grad(batch_loss, has_aux=True)
            (loss, (averages, accuracy)), grads = compute(params, averages, draw, inputs, labels)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            return params, averages, opt_state, key, loss, accuracy

        self.step = jax.jit(step)

    def run(self, num_steps: int) -> None:
        carry, step = (self.params, self.averages, self.opt_state, self.key), self.step
        for inputs, labels in _configs.stream(self.batches, num_steps):
            *carry, _loss, _accuracy = step(*carry, inputs, labels)
        self.params, self.averages, self.opt_state, self.key = jax.block_until_ready(carry)

    def loss(self) -> float:
        inputs, labels = self.batches[0]
        train = self.config.stateful  # BatchNorm by the batch itself.
        logits, _ = self.apply(self.params, self.averages, None, jnp.asarray(inputs), train)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return float(jnp.mean(losses))


def build(config: Config) -> Run:
    return HaikuLoop(config)
