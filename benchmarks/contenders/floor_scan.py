"""The floor of fused steps: `lax.scan` over the floor's program, fifty steps a dispatch."""

import jax

from .. import _configs
from .._configs import STEPS_PER_CALL, Config
from ._base import Run
from .floor import Flat, flat_loss, full_program


class ScanFloor(Run):
    """The loop over scans. `stack` is what it costs to make fifty batches one."""

    def __init__(self, config: Config, stack: bool):
        self.flat = Flat(config, _configs.weights(config))
        self.leaves = self.flat.leaves
        self.batches = _configs.batches(config)
        self.ready = None if stack else _configs.stacked(self.batches)
        program = full_program(self.flat)

        def scan(leaves, inputs, labels):
            return jax.lax.scan(lambda carry, xs: program(carry, *xs), leaves, (inputs, labels))

        self.program = jax.jit(scan, donate_argnums=0)

    def run(self, num_steps: int) -> None:
        leaves, program = self.leaves, self.program
        for _ in range(num_steps // STEPS_PER_CALL):
            inputs, labels = self.ready or _configs.stacked(self.batches)
            leaves, _metrics = program(leaves, inputs, labels)
        self.leaves = jax.block_until_ready(leaves)

    def loss(self) -> float:
        return flat_loss(self.flat, self.leaves, *self.batches[0])


def build(config: Config) -> Run:
    return ScanFloor(config, stack=False)


def build_stacking(config: Config) -> Run:
    return ScanFloor(config, stack=True)
