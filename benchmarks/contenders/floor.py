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
    """The training state as one flat list: weights, optimizer state, a stateful model's running
    averages, the key's data, the step.

    The order is fixed at the start, and so is everything that is not an array; what is left for
    a call is a list.

    Args:
        config: The model.
        first: Its first weights; JAX arrays among them are taken over, and donated with the rest.
        key: The root of the draws.
    """

    def __init__(self, config: Config, first: dict[str, Any], key: Array | None = None):
        self.names = list(first)
        self.stateful = config.stateful
        if self.stateful:
            self.stateful_forward = _flat.stateful_forward(config)
        else:
            self.forward = _flat.forward(config)
        self.optimizer = optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)
        params = [on_device(array) for array in first.values()]
        moments, self.treedef = jax.tree.flatten(self.optimizer.init(params))
        averages = _flat.averages(self.named(params))
        self.ends = len(params), len(params) + len(moments)
        key = _training_key() if key is None else key
        self.implementation = jax.random.key_impl(key)
        seed = jnp.array(jax.random.key_data(key), copy=True)
        self.leaves = [*params, *moments, *averages, seed, jnp.zeros((), jnp.int32)]

    def named(self, params: list[Array]) -> dict[str, Array]:
        """The weights as the model's function wants them."""
        return dict(zip(self.names, params, strict=True))

    def split(self, leaves: list[Array]) -> tuple[list[Array], list[Array], list[Array], Array]:
        """Weights, optimizer leaves, running averages, and this step's key."""
        *kept, seed, step = leaves
        first, second = self.ends
        key = jax.random.wrap_key_data(seed, impl=self.implementation)
        return kept[:first], kept[first:second], kept[second:], jax.random.fold_in(key, step)

    def joined(
        self,
        leaves: list[Array],
        params: list[Array],
        moments: list[Array],
        averages: list[Array],
    ) -> list[Array]:
        """The flat list of the next step."""
        *_, seed, step = leaves
        return [*params, *moments, *averages, seed, step + 1]

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
    the example's index (a model with BatchNorm, which draws nothing: on the whole batch); loss,
    accuracy and the norm of the gradient come out. What treadle does beyond that, its check for
    NaN above all, is not in here: it counts against it.

    Args:
        flat: The state's layout.
        keys: `"batch"` draws for the whole batch with one key instead, on a plain batch.
    """

    def figures(logits, y):
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return loss, (jnp.argmax(logits, axis=-1) == y).astype(jnp.float32)

    def example_loss(params, x, y, key):
        return figures(flat.forward(flat.named(params), x, key), y)

    def mean_loss(params, averages, inputs, labels, key):
        if flat.stateful:
            logits, averages = flat.stateful_forward(flat.named(params), averages, inputs)
            losses, hits = figures(logits, labels)
        elif keys == "batch":
            losses, hits = example_loss(params, inputs, labels, key)
        else:
            places = jnp.arange(inputs.shape[0])
            own = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places)
            mapped = jax.vmap(example_loss, in_axes=(None, 0, 0, 0))
            losses, hits = mapped(params, inputs, labels, own)
        return jnp.mean(losses), (jnp.mean(hits), averages)

    def program(leaves, inputs, labels):
        params, moments, averages, key = flat.split(leaves)
        compute = jax.value_and_grad(mean_loss, has_aux=True)
        (loss, (accuracy, averages)), grads = compute(params, averages, inputs, labels, key)
        metrics = {"loss": loss, "accuracy": accuracy, "grad_norm": optax.tree.norm(grads)}
        params, moments = flat.update(params, moments, grads)
        return flat.joined(leaves, params, moments, averages), metrics

    return program


def bare_program(flat: Flat) -> Program:
    """The step without a word about how it went: a plain batch, one key for it, no outputs."""

    def mean_loss(params, averages, inputs, labels, key):
        if flat.stateful:
            logits, averages = flat.stateful_forward(flat.named(params), averages, inputs)
        else:
            logits = flat.forward(flat.named(params), inputs, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), averages

    def program(leaves, inputs, labels):
        params, moments, averages, key = flat.split(leaves)
        compute = jax.grad(mean_loss, has_aux=True)
        grads, averages = compute(params, averages, inputs, labels, key)
        params, moments = flat.update(params, moments, grads)
        return flat.joined(leaves, params, moments, averages), None

    return program


def flat_loss(flat: Flat, leaves: list[Array], inputs: np.ndarray, labels: np.ndarray) -> float:
    """The loss of the weights among `leaves`, dropout off, BatchNorm by the batch itself."""
    params, _, averages, _ = flat.split(leaves)
    if flat.stateful:
        logits, _ = flat.stateful_forward(flat.named(params), averages, jnp.asarray(inputs))
    else:
        logits = flat.forward(flat.named(params), jnp.asarray(inputs), None)
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
