"""The floor of fused steps: `lax.scan` over the floor's program, many steps a dispatch."""

import itertools

import jax

from .. import _configs
from .._configs import Config
from ._base import Run
from .floor import Flat, flat_loss, full_program


class ScanFloor(Run):
    """The loop over scans. `stack` is what it costs to make many batches one."""

    def __init__(self, config: Config, stack: bool):
        self.flat = Flat(config, _configs.weights(config))
        self.leaves = self.flat.leaves
        self.batches = _configs.batches(config)
        self.steps_per_call = config.steps_per_call
        self.ready = None if stack else _configs.ready(config)
        program = full_program(self.flat)
        # As treadle does by itself: convolutions inside a loop are slow on the CPU.
        unroll = config.kind == "resnet" and jax.default_backend() == "cpu"

        def scan(leaves, inputs, labels):
            xs = (inputs, labels)
            return jax.lax.scan(lambda carry, x: program(carry, *x), leaves, xs, unroll=unroll)

        self.program = jax.jit(scan, donate_argnums=0)

    def run(self, num_steps: int) -> None:
        leaves, program = self.leaves, self.program
        ready = self.ready or _configs.stacked(self.batches, num_steps, self.steps_per_call)
        for inputs, labels in itertools.islice(ready, num_steps // self.steps_per_call):
            leaves, _metrics = program(leaves, inputs, labels)
        self.leaves = jax.block_until_ready(leaves)

    def loss(self) -> float:
        return flat_loss(self.flat, self.leaves, *self.batches[0])


def build(config: Config) -> Run:
    return ScanFloor(config, stack=False)


def build_stacking(config: Config) -> Run:
    return ScanFloor(config, stack=True)
