"""The floor with an average of its weights beside them: what `ema` costs by hand."""

import jax
import jax.numpy as jnp

from .. import _configs
from .._configs import Config
from ._base import Run
from .floor import Flat, flat_loss, full_program

_DECAY = 0.999


class AveragedFloor(Run):
    """The loop over the floor's program, which also moves the averages, the first of its leaves."""

    def __init__(self, config: Config):
        self.flat = Flat(config, _configs.weights(config))
        count = self.count = len(self.flat.names)
        averages = [jnp.copy(leaf) for leaf in self.flat.leaves[:count]]
        self.leaves = [*averages, *self.flat.leaves]
        self.batches = _configs.batches(config)
        inner = full_program(self.flat)

        def program(leaves, inputs, labels):
            averages, leaves = leaves[:count], leaves[count:]
            leaves, metrics = inner(leaves, inputs, labels)
            moved = [
                _DECAY * old + (1 - _DECAY) * new
                for old, new in zip(averages, leaves[:count], strict=True)
            ]
            return [*moved, *leaves], metrics

        self.program = jax.jit(program, donate_argnums=0)

    def run(self, num_steps: int) -> None:
        leaves, program = self.leaves, self.program
        for inputs, labels in _configs.stream(self.batches, num_steps):
            leaves, _metrics = program(leaves, inputs, labels)
        self.leaves = jax.block_until_ready(leaves)

    def loss(self) -> float:
        return flat_loss(self.flat, self.leaves[self.count :], *self.batches[0])


def build(config: Config) -> Run:
    return AveragedFloor(config)
