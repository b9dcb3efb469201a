"""klax: a trainer for Equinox models."""

import equinox as eqx
import jax
import jax.numpy as jnp
import klax
import optax

from .. import _configs
from .._configs import Config
from ..models import _equinox
from ._base import Run


class BatchLoss(klax.Loss):
    """klax's losses get no key of their own, so the run's state carries one and the step counts.

    The same key in every step then draws the same masks: nothing cheaper can be done, and klax
    has no other place for it.
    """

    def value(self, model, batch, run_state):
        inputs, labels = batch
        keys = jax.random.split(run_state, inputs.shape[0])
        logits = jax.vmap(lambda x, key: model(x, key=key))(inputs, keys)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


class KlaxFit(Run):
    """`klax.fit`, fed our batches; `logged` adds its own logger and progress bar."""

    def __init__(self, config: Config, logged: bool):
        self.model = _equinox.model(config, _configs.weights(config))
        self.batches = _configs.batches(config)
        self.optimizer = optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)
        self.opt_state = self.optimizer.init(eqx.filter(self.model, eqx.is_inexact_array))
        self.batch_loss = BatchLoss()
        self.logged = logged

    def run(self, num_steps: int) -> None:
        keep = KeepOptState()
        self.model, _ = klax.fit(
            self.model,
            self.batches[0],
            batch_size=len(self.batches[0][1]),
            run_state=jax.random.key(0),
            steps=num_steps,
            loss=self.batch_loss,
            optimizer=self.optimizer,
            init_opt_state=self.opt_state,
            batcher=lambda data, *args, **kwargs: _configs.stream(self.batches, num_steps + 1),
            make_logger=self.logged,
            log_every=10,
            verbose=2,
            callbacks=[keep],
            key=jax.random.key(0),
        )
        self.opt_state = keep.opt_state
        jax.block_until_ready(eqx.filter((self.model, self.opt_state), eqx.is_array))

    def loss(self) -> float:
        return _equinox.loss(self.model, None, self.batches[0])


class KeepOptState(klax.Callback):
    """Hands the optimizer's state on to the next `fit`."""

    def on_training_end(self, context):
        self.opt_state = context.state.opt_state


def build(config: Config) -> Run:
    return KlaxFit(config, logged=False)


def build_logged(config: Config) -> Run:
    return KlaxFit(config, logged=True)
