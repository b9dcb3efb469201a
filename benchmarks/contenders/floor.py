"""The floors: `jax.jit` on a flat list of donated buffers, and nothing between it and the loop."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from .. import _configs
from .._configs import Config
from ..models import _flat
from ..models._on_device import on_device
from ._base import Run

Program: TypeAlias = Callable[[list[Array], np.ndarray, np.ndarray], Any]


class Flat:
    """The training state as one flat list: weights, optimizer state, the key's data, the step.

    The order is fixed at the start, and so is everything that is not an array; what is left for
    a call is a list.

    Args:
        config: The model.
        first: Its first weights; JAX arrays among them are taken over, and donated with the rest.
        key: The root of the draws.
    """

    def __init__(self, config: Config, first: dict[str, Any], key: Array | None = None):
        self.names = list(first)
        self.forward = _flat.forward(config)
        self.optimizer = optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)
        params = [on_device(array) for array in first.values()]
        moments, self.treedef = jax.tree.flatten(self.optimizer.init(params))
        key = _training_key() if key is None else key
        self.implementation = jax.random.key_impl(key)
        seed = jnp.array(jax.random.key_data(key), copy=True)
        self.leaves = [*params, *moments, seed, jnp.zeros((), jnp.int32)]

    def named(self, params: list[Array]) -> dict[str, Array]:
        """The weights as the model's function wants them."""
        return dict(zip(self.names, params, strict=True))

    def split(self, leaves: list[Array]) -> tuple[list[Array], list[Array], Array, Array]:
        """Weights, optimizer leaves, the key's data, the step's number."""
        *trained, seed, step = leaves
        return trained[: len(self.names)], trained[len(self.names) :], seed, step

    def step_key(self, seed: Array, step: Array) -> Array:
        """The key of one step."""
        key = jax.random.wrap_key_data(seed, impl=self.implementation)
        return jax.random.fold_in(key, step)

    def update(self, params: list[Array], moments: list[Array], grads: list[Array]):
        """New weights and new optimizer leaves."""
        state = jax.tree.unflatten(self.treedef, moments)
        updates, state = self.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), jax.tree.leaves(state)


def _training_key() -> Array:
    """What a `TrainStep` keeps of `jax.random.key(0)`: the same draws, then."""
    return jax.random.fold_in(jax.random.key(0), 0x74726169)


def full_program(flat: Flat, keys: Literal["example", "batch"] = "example") -> Program:
    """The step with every output that treadle's has, by the same maths.

    One example at a time under `vmap`, a key for each derived from the seed, the step's number and
    the example's index; loss, accuracy and the norm of the gradient come out. What treadle does
    beyond that, its check for NaN above all, is not in here: it counts against it.

    Args:
        flat: The state's layout.
        keys: `"batch"` draws for the whole batch with one key instead, on a plain batch.
    """

    def example_loss(params, x, y, key):
        logits = flat.forward(flat.named(params), x, key)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return loss, (jnp.argmax(logits, axis=-1) == y).astype(jnp.float32)

    def mean_loss(params, inputs, labels, key):
        if keys == "batch":
            losses, hits = example_loss(params, inputs, labels, key)
        else:
            places = jnp.arange(inputs.shape[0])
            own = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places)
            mapped = jax.vmap(example_loss, in_axes=(None, 0, 0, 0))
            losses, hits = mapped(params, inputs, labels, own)
        return jnp.mean(losses), jnp.mean(hits)

    def program(leaves, inputs, labels):
        params, moments, seed, step = flat.split(leaves)
        compute = jax.value_and_grad(mean_loss, has_aux=True)
        (loss, accuracy), grads = compute(params, inputs, labels, flat.step_key(seed, step))
        metrics = {"loss": loss, "accuracy": accuracy, "grad_norm": optax.tree.norm(grads)}
        params, moments = flat.update(params, moments, grads)
        return [*params, *moments, seed, step + 1], metrics

    return program


def bare_program(flat: Flat) -> Program:
    """The step without a word about how it went: a plain batch, one key for it, no outputs."""

    def mean_loss(params, inputs, labels, key):
        logits = flat.forward(flat.named(params), inputs, key)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def program(leaves, inputs, labels):
        params, moments, seed, step = flat.split(leaves)
        grads = jax.grad(mean_loss)(params, inputs, labels, flat.step_key(seed, step))
        params, moments = flat.update(params, moments, grads)
        return [*params, *moments, seed, step + 1], None

    return program


def flat_loss(flat: Flat, leaves: list[Array], inputs: np.ndarray, labels: np.ndarray) -> float:
    """The loss of the weights among `leaves`, dropout off."""
    params = flat.named(flat.split(leaves)[0])
    logits = flat.forward(params, jnp.asarray(inputs), None)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels))
    return float(jnp.mean(losses))


class Floor(Run):
    """The loop over either program."""

    def __init__(self, config: Config, make_program: Callable[[Flat], Program]):
        self.flat = Flat(config, _configs.weights(config))
        self.leaves = self.flat.leaves
        self.batches = _configs.batches(config)
        self.program = jax.jit(make_program(self.flat), donate_argnums=0)

    def run(self, num_steps: int) -> None:
        leaves, program = self.leaves, self.program
        for inputs, labels in _configs.stream(self.batches, num_steps):
            leaves, _metrics = program(leaves, inputs, labels)
        self.leaves = jax.block_until_ready(leaves)

    def loss(self) -> float:
        return flat_loss(self.flat, self.leaves, *self.batches[0])


def build(config: Config) -> Run:
    return Floor(config, full_program)


def build_bare(config: Config) -> Run:
    return Floor(config, bare_program)
