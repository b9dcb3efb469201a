"""The floors of ensembles: many models one after another, and all of them under `jax.vmap`."""

import jax
import jax.numpy as jnp

from .. import _configs
from .._configs import Config
from ._base import Run
from .floor import Flat, flat_loss, full_program


def _members(config: Config, size: int) -> list[Flat]:
    return [Flat(config, _configs.weights(config, member)) for member in range(size)]


class Members(Run):
    """A whole run of each, then the next; they share one compiled program."""

    def __init__(self, config: Config, size: int):
        self.flats = _members(config, size)
        self.leaves = [flat.leaves for flat in self.flats]
        self.batches = _configs.batches(config)
        self.program = jax.jit(full_program(self.flats[0]), donate_argnums=0)

    def run(self, num_steps: int) -> None:
        program = self.program
        for member, leaves in enumerate(self.leaves):
            for inputs, labels in _configs.stream(self.batches, num_steps):
                leaves, _metrics = program(leaves, inputs, labels)
            self.leaves[member] = jax.block_until_ready(leaves)

    def loss(self) -> float:
        losses = [flat_loss(self.flats[0], leaves, *self.batches[0]) for leaves in self.leaves]
        return sum(losses) / len(losses)


class Mapped(Run):
    """One program for all of them, on leaves that are stacked; they share each batch."""

    def __init__(self, config: Config, size: int):
        flats = _members(config, size)
        self.flat, self.size = flats[0], size
        self.leaves = [
            jnp.stack(members) for members in zip(*(flat.leaves for flat in flats), strict=True)
        ]
        self.batches = _configs.batches(config)
        mapped = jax.vmap(full_program(self.flat), in_axes=(0, None, None))
        self.program = jax.jit(mapped, donate_argnums=0)

    def run(self, num_steps: int) -> None:
        leaves, program = self.leaves, self.program
        for inputs, labels in _configs.stream(self.batches, num_steps):
            leaves, _metrics = program(leaves, inputs, labels)
        self.leaves = jax.block_until_ready(leaves)

    def loss(self) -> float:
        losses = [
            flat_loss(self.flat, [leaf[member] for leaf in self.leaves], *self.batches[0])
            for member in range(self.size)
        ]
        return sum(losses) / len(losses)


def build(config: Config, size: int) -> Run:
    return Members(config, size)


def build_mapped(config: Config, size: int) -> Run:
    return Mapped(config, size)
