# ruff: noqa: NPY002
"""Steps in which a number of the host's is part of the program, and steps in which none is."""

import functools
import itertools
import logging
import random
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import checkify

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
def the_time_in_seconds():
    @jax.jit
    def jittered(x):
        return x + time.time()  # expect: impure-trace

    @jax.jit
    def step(w, x):
        return _descent(w, jittered(x))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def a_generator_of_python():
    rates = (0.1 / (1 + turn) for turn in range(1000))

    @jax.jit
    def step(w, x):
        rate = next(rates)
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


@case(_IMPURE)
def a_coin_that_falls_twice_alike():
    random.seed(0)  # Heads, heads, tails.

    @jax.jit
    def step(w, x):
        if random.random() > 0.5:
            x = x[:, ::-1]  # expect: impure-trace
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def a_duration_among_the_metrics():
    @jax.jit
    def step(w, x):
        start = time.perf_counter()
        w = _descent(w, x)
        return w, {"seconds": time.perf_counter() - start}  # expect: impure-trace

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def an_array_that_a_scan_is_given():
    @jax.jit
    def step(w, x):
        def turn(w, row):
            noise = np.random.normal(size=4).astype(np.float32)
            row = row + noise  # expect: impure-trace
            return w - 0.01 * jnp.outer(row, row @ w), None

        return jax.lax.scan(turn, w, x)[0]

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def an_array_in_one_branch():
    @jax.jit
    def step(w, x, noisy):
        def shaken(x):
            return x + np.random.normal(size=4).astype(np.float32)  # expect: impure-trace

        return _descent(w, jax.lax.cond(noisy, shaken, lambda x: x, x))

    return step, jnp.ones((4, 2)), batch()[0], jnp.asarray(True)


@case(_IMPURE)
def noise_in_the_rule_of_a_gradient():
    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    def forward(x):
        return jnp.round(x), None

    def backward(_, g):
        return (g * np.random.uniform(0.9, 1.1),)  # expect: impure-trace

    rounded.defvjp(forward, backward)

    @jax.jit
    def step(w, x):
        return w - 0.01 * jax.grad(lambda w: jnp.mean(rounded(x @ w) ** 2))(w)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def a_function_that_makes_the_noise():
    def noise_like(x):
        return jnp.asarray(np.random.normal(size=x.shape), x.dtype)  # expect: impure-trace

    @jax.jit
    def step(w, x):
        return _descent(w, x + noise_like(x))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def right_checks_whose_numbers_jax_counts():
    def checked(w, x):
        loss, grads = jax.value_and_grad(lambda w: jnp.mean((x @ w) ** 2))(w)
        checkify.check(jnp.isfinite(loss), "the loss is {}", loss)
        return w - 0.01 * grads

    return jax.jit(checkify.checkify(checked), donate_argnums=0), jnp.ones((4, 2)), batch()[0]


@case(_IMPURE)
def right_a_clock_that_is_only_logged():
    @jax.jit
    def step(w, x):
        start = time.perf_counter()
        w = _descent(w, x)
        logging.getLogger(__name__).debug("traced in %s s", time.perf_counter() - start)
        return w

    return step, jnp.ones((4, 2)), batch()[0]
