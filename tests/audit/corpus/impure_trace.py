# ruff: noqa: NPY002
"""Steps in which a number of the host's is part of the program, and steps in which none is."""

import functools
import itertools
import random
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import treadle

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, net

_IMPURE = "impure-trace"


def _descent(w, x):
    return w - 0.01 * x.T @ (x @ w)


@case(_IMPURE)
def noise_of_numpy():
    @jax.jit
    def step(w, x):
        x = x + np.random.normal(size=x.shape).astype(np.float32)  # expect: impure-trace
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def a_number_of_python_random():
    @jax.jit
    def step(w, x):
        return _descent(w, x * random.random())  # expect: impure-trace

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def the_clock():
    @eqx.filter_jit
    def step(w, x):
        x = x + time.perf_counter()  # expect: impure-trace
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def a_counter_of_the_closure():
    counter = itertools.count()

    @jax.jit
    def step(w, x):
        rate = 0.1 / (1 + next(counter))
        return w - rate * x.T @ (x @ w)  # expect: impure-trace

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def inside_of_an_inner_jit():
    @jax.jit
    def augment(x):
        return x + np.random.uniform()  # expect: impure-trace

    @jax.jit
    def step(w, x):
        return _descent(w, augment(x))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def inside_of_the_body_of_a_scan():
    @jax.jit
    def step(w, x):
        def body(w, row):
            row = row * random.random()  # expect: impure-trace
            return w - 0.01 * row[:, None] * (row @ w), None

        return jax.lax.scan(body, w, x)[0]

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def inside_of_a_checkpoint():
    @jax.jit
    def step(w, x):
        @jax.checkpoint
        def loss(w):
            h = jnp.tanh(x @ w)
            return jnp.mean((h * np.random.rand()) ** 2)  # expect: impure-trace

        return w - 0.01 * jax.grad(loss)(w)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def noise_of_numpy_in_a_treadle_loss():
    def loss_fn(model, example, key):
        x, y = example
        noise = np.random.rand(4).astype(np.float32)
        logits = model(x + noise, key)  # expect: impure-trace
        return cross_entropy(logits, y)

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    return step, step.init(net()[0], key=jax.random.key(0)), batch()


@case(_IMPURE)
def a_choice_of_python():
    @jax.jit
    def step(w, x):
        order = np.random.permutation(6)
        return _descent(w, x[order])  # expect: impure-trace

    return step, jnp.ones((4, 2)), batch()[0]


# -- right ----------------------------------------------------------------------------------------


@case(_IMPURE)
def right_constants_of_numpy():
    @jax.jit
    def step(w, x):
        return _descent(w, x * np.linspace(0, 1, 4, dtype=np.float32))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def right_a_generator_with_a_seed():
    @jax.jit
    def step(w, x):
        projection = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
        return _descent(w, x @ projection)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def right_a_table_that_is_kept():
    @functools.cache
    def table(size):
        return np.random.normal(size=size).astype(np.float32)

    @jax.jit
    def step(w, x):
        return _descent(w, x + table(4))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def right_the_clock_outside():
    @jax.jit
    def step(w, x, now):
        return _descent(w, x * jnp.sin(now))

    return step, jnp.ones((4, 2)), batch()[0], time.perf_counter()


@case(_IMPURE)
def right_custom_derivatives_and_checkpoints():
    @jax.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1, 1),))

    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        keys = jax.random.split(key, x.shape[0])

        @jax.checkpoint
        def forward(x):
            return clipped(jax.nn.gelu(x))

        def loss(model):
            return cross_entropy(jax.vmap(model)(forward(x), keys), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *net(), *batch(), jax.random.key(0)
