"""Keras 3 on JAX: `compile` and `fit`."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras  # The backend is chosen before the import.

from .. import _configs
from .._configs import Config
from ..models import _keras
from ._base import Run


class KerasFit(Run):
    """`model.fit` on a generator of batches; `logged` adds its progress bar."""

    def __init__(self, config: Config, steps_per_execution: int, logged: bool):
        self.config = config
        self.model = _keras.model(config, _configs.weights(config))
        self.batches = _configs.batches(config)
        self.verbose = 1 if logged else 0
        self.model.compile(
            optimizer=keras.optimizers.AdamW(
                _configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY, epsilon=1e-8
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=steps_per_execution,
            jit_compile=True,
        )

    def run(self, num_steps: int) -> None:
        # `fit` reads the loss at the end of the epoch, which waits for the last step.
        # Keras takes generators, and no other iterators.
        batches = (pair for pair in _configs.stream(self.batches, num_steps))
        self.model.fit(batches, steps_per_epoch=num_steps, epochs=1, verbose=self.verbose)

    def loss(self) -> float:
        inputs, labels = self.batches[0]
        # By the batch itself BatchNorm moves its running averages, which training never reads.
        logits = self.model(inputs, training=self.config.stateful)
        losses = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)
        return float(losses)


def build(config: Config) -> Run:
    return KerasFit(config, steps_per_execution=1, logged=False)


def build_logged(config: Config) -> Run:
    return KerasFit(config, steps_per_execution=1, logged=True)


def build_multi(config: Config) -> Run:
    return KerasFit(config, steps_per_execution=16, logged=False)
