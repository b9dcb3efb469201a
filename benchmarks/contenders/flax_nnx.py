"""Flax NNX: under `nnx.jit`, with `nnx.cached_partial`, and split by hand into pure arrays."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from .. import _configs
from .._configs import Config
from ..models import _nnx
from ._base import Run


def _batch_loss(model, inputs, labels):
    logits = model(inputs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def _step(model, optimizer, inputs, labels):
    compute = nnx.value_and_grad(_batch_loss, has_aux=True)
    (loss, accuracy), grads = compute(model, inputs, labels)
    optimizer.update(model, grads)
    return loss, accuracy


def _model_and_optimizer(config: Config):
    model = _nnx.model(config, _configs.weights(config))
    transform = optax.adamw(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)
    return model, nnx.Optimizer(model, transform, wrt=nnx.Param)


def _loss(model, config: Config) -> float:
    model = nnx.clone(model)
    if not config.stateful:
        model.eval()
    return float(_batch_loss(model, *_configs.batches(config)[0])[0])


class NnxLoop(Run):
    """The step as NNX's own examples have it: the model is mutated in place."""

    def __init__(self, config: Config, cached: bool):
        self.config = config
        self.model, self.optimizer = _model_and_optimizer(config)
        self.batches = _configs.batches(config)
        if cached:
            with nnx.set_graph_mode(True), nnx.set_graph_updates(True):
                jitted = nnx.jit(_step, graph=True, graph_updates=True)
                self.step = nnx.cached_partial(jitted, self.model, self.optimizer)
        else:
            jitted = nnx.jit(_step)
            self.step = lambda inputs, labels: jitted(self.model, self.optimizer, inputs, labels)

    def run(self, num_steps: int) -> None:
        step = self.step
        for inputs, labels in _configs.stream(self.batches, num_steps):
            _loss, _accuracy = step(inputs, labels)
        jax.block_until_ready(jax.tree.leaves((nnx.state(self.model), nnx.state(self.optimizer))))

    def loss(self) -> float:
        return _loss(self.model, self.config)


class NnxSplit(Run):
    """The model and optimizer split once; the arrays go through a donated `jax.jit`."""

    def __init__(self, config: Config):
        self.config = config
        self.graphdef, self.state = nnx.split(_model_and_optimizer(config))
        self.batches = _configs.batches(config)
        graphdef = self.graphdef

        def step(state, inputs, labels):
            model, optimizer = nnx.merge(graphdef, state)
            loss, accuracy = _step(model, optimizer, inputs, labels)
            return nnx.state((model, optimizer)), loss, accuracy

        self.step = jax.jit(step, donate_argnums=0)

    def run(self, num_steps: int) -> None:
        state, step = self.state, self.step
        for inputs, labels in _configs.stream(self.batches, num_steps):
            state, _loss, _accuracy = step(state, inputs, labels)
        self.state = jax.block_until_ready(state)

    def loss(self) -> float:
        model, _ = nnx.merge(self.graphdef, self.state)
        return _loss(model, self.config)


def build(config: Config) -> Run:
    return NnxLoop(config, cached=False)


def build_cached(config: Config) -> Run:
    return NnxLoop(config, cached=True)


def build_split(config: Config) -> Run:
    return NnxSplit(config)
