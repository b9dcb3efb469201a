"""States that come back changed, and states that do not."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import treadle

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, net, params

_DRIFT = "state-drift"


def _loss(p, x, y):
    hidden = jax.nn.relu(x @ p["w1"] + p["b1"])
    return cross_entropy(hidden @ p["w2"] + p["b2"], y)


def _descent(p, x, y):
    value, grads = jax.value_and_grad(_loss)(p, x, y)
    return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value


def _linear_loss(both, x, y):
    w, b = both
    return cross_entropy(x @ w + b, y)


@case(_DRIFT)
def a_counter_that_starts_as_a_python_number():
    @jax.jit  # expect: state-drift
    def step(state, x, y):
        p, _ = _descent(state["params"], x, y)
        return {"params": p, "scale": jnp.maximum(state["scale"], jnp.float32(0))}

    return step, {"params": params(), "scale": 1.0}, *batch()


@case(_DRIFT)
def a_loss_that_is_zero_at_first():
    @jax.jit  # expect: state-drift
    def step(state, x, y):
        p, value = _descent(state["params"], x, y)
        return {"params": p, "mean": 0.9 * state["mean"] + 0.1 * value}

    return step, {"params": params(), "mean": 0.0}, *batch()


@case(_DRIFT)
def parameters_that_become_bfloat16():
    @jax.jit  # expect: state-drift
    def step(p, x, y):
        p, value = _descent(p, x, y)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), p), value

    return step, params(), *batch()


@case(_DRIFT)
def parameters_in_float16_that_become_float32():
    @jax.jit  # expect: state-drift
    def step(p, x, y):
        value, grads = jax.value_and_grad(_loss)(p, x, y)
        rate = jnp.float32(0.1)
        return jax.tree.map(lambda p, g: p - rate * g, p, grads), value

    x, y = batch()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), params())
    return step, half, x.astype(jnp.float16), y


@case(_DRIFT)
def a_tuple_that_becomes_a_list():
    @jax.jit  # expect: state-drift
    def step(state, x, y):
        p, opt_state = state
        grads = jax.grad(_loss)(p, x, y)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return [optax.apply_updates(p, updates), opt_state]

    return step, (params(), OPTIMIZER.init(params())), *batch()


@case(_DRIFT)
def a_history_that_grows():
    @jax.jit  # expect: state-drift
    def step(state, x, y):
        p, value = _descent(state["params"], x, y)
        return {"params": p, "losses": jnp.append(state["losses"], value)}

    return step, {"params": params(), "losses": jnp.zeros(1)}, *batch()


@case(_DRIFT)
def something_new_in_the_dictionary():
    @jax.jit  # expect: state-drift
    def step(state, x, y):
        p, value = _descent(state, x, y)
        return {**p, "loss": value}

    return step, params(), *batch()


@case(_DRIFT)
def a_static_number_that_counts():
    class State(eqx.Module):
        params: dict
        step: int

    @eqx.filter_jit  # expect: state-drift
    def step(state, x, y):
        p, value = _descent(state.params, x, y)
        return State(p, state.step + 1), value

    return step, State(params(), 0), *batch()


@case(_DRIFT)
def an_optimizer_of_a_weakly_typed_state():
    optimizer = optax.lbfgs()

    @jax.jit  # expect: state-drift
    def step(p, opt_state, x, y):
        def value_fn(p):
            return _loss(p, x, y)

        value, grads = jax.value_and_grad(value_fn)(p)
        updates, opt_state = optimizer.update(
            grads, opt_state, p, value=value, grad=grads, value_fn=value_fn
        )
        return optax.apply_updates(p, updates), opt_state

    return step, params(), optimizer.init(params()), *batch()


# -- right ----------------------------------------------------------------------------------------


@case(_DRIFT)
def right_equinox_and_adam():
    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        keys = jax.random.split(key, x.shape[0])

        def loss(model):
            return cross_entropy(jax.vmap(model)(x, keys), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *net(), *batch(), jax.random.key(0)


@case(_DRIFT)
def right_what_a_layer_of_equinox_starts_with():
    def loss_fn(layers, x):
        first, prelu, last = layers
        return jnp.mean(jax.vmap(lambda x: last(prelu(first(x))))(x) ** 2)

    @eqx.filter_jit(donate="all-except-first")
    def step(x, layers):
        grads = eqx.filter_grad(loss_fn)(layers, x)
        return eqx.apply_updates(layers, jax.tree.map(lambda g: jnp.float32(-0.1) * g, grads))

    first, last = jax.random.split(jax.random.key(0))
    layers = eqx.nn.Linear(4, 8, key=first), eqx.nn.PReLU(0.2), eqx.nn.Linear(8, 3, key=last)
    return step, jnp.ones((6, 4)), layers


@case(_DRIFT)
def right_a_counter_that_stays_weak():
    @jax.jit
    def step(state, x, y):
        p, _ = _descent(state["params"], x, y)
        return {"params": p, "step": state["step"] + 1}

    return step, {"params": params(), "step": 0}, *batch()


@case(_DRIFT)
def right_mixed_precision_that_casts_back():
    @jax.jit
    def step(p, x, y):
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), p)
        value, grads = jax.value_and_grad(_loss)(half, x.astype(jnp.bfloat16), y)
        return jax.tree.map(lambda p, g: p - 0.1 * g.astype(p.dtype), p, grads), value

    return step, params(), *batch()


@case(_DRIFT)
def right_injected_hyperparameters():
    optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3)

    @jax.jit
    def step(p, opt_state, x, y):
        grads = jax.grad(_loss)(p, x, y)
        updates, opt_state = optimizer.update(grads, opt_state, p)
        return optax.apply_updates(p, updates), opt_state

    return step, params(), optimizer.init(params()), *batch()


@case(_DRIFT)
def right_frozen_by_partition():
    model, _ = net()
    trained, frozen = eqx.partition(model, eqx.is_inexact_array)

    @eqx.filter_jit
    def step(trained, opt_state, frozen, x, y, key):
        def loss(trained):
            keys = jax.random.split(key, x.shape[0])
            return cross_entropy(jax.vmap(eqx.combine(trained, frozen))(x, keys), y)

        value, grads = eqx.filter_value_and_grad(loss)(trained)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(trained, updates), opt_state, value

    return step, trained, OPTIMIZER.init(trained), frozen, *batch(), jax.random.key(0)


@case(_DRIFT)
def right_treadle_takes_off_weak_types():
    def loss_fn(model, example, key):
        x, y = example
        return cross_entropy(model(x, key), y)

    step = treadle.TrainStep(loss_fn, optax.lbfgs())
    return step, step.init(net()[0], key=jax.random.key(0)), batch()


@case(_DRIFT)
def an_average_that_is_none_at_first():
    class State(NamedTuple):
        params: Any
        average: Any

    @jax.jit  # expect: state-drift
    def step(state, x, y):
        new, loss = _descent(state.params, x, y)
        old = new if state.average is None else state.average
        return State(new, jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, old, new)), loss

    return step, State(params(), None), *batch()


@case(_DRIFT)
def arrays_that_nobody_put_anywhere():
    devices = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    spec = jax.sharding.PartitionSpec

    @jax.jit
    def step(p, x, y):
        def local(p, x, y):
            return jax.lax.pmean(jax.grad(_loss)(p, x, y), "data")

        specs = spec(), spec("data"), spec("data")
        mapped = jax.shard_map(local, mesh=devices, in_specs=specs, out_specs=spec())
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, mapped(p, x, y))

    return step, params(), *batch()


@case(_DRIFT)
def a_history_by_itself_that_grows():
    @jax.jit  # expect: state-drift
    def step(p, history, x, y):
        p, value = _descent(p, x, y)
        return p, jnp.append(history, value)

    return step, params(), jnp.zeros(3), *batch()


@case(_DRIFT)
def a_dictionary_that_gets_the_loss():
    @jax.jit  # expect: state-drift
    def step(state, x, y):
        value, grads = jax.value_and_grad(lambda w: cross_entropy(x @ w, y))(state["w"])
        return {"w": state["w"] - 0.1 * grads, "loss": value}

    return step, {"w": jnp.ones((4, 3))}, *batch()


@case(_DRIFT)
def right_two_arrays_and_the_loss():
    @jax.jit
    def step(both, x, y):
        w, b = both
        value, (of_w, of_b) = jax.value_and_grad(lambda wb: cross_entropy(x @ wb[0] + wb[1], y))(
            both
        )
        return w - 0.1 * of_w, b - 0.1 * of_b, value

    return step, (jnp.ones((4, 3)), jnp.zeros(3)), *batch()


@case(_DRIFT)
def right_an_optimizer_that_searches_along_a_line():
    optimizer = optax.lbfgs()

    @jax.jit
    def step(w, opt_state, x, y):
        def loss(w):
            return cross_entropy(x @ w, y)

        value, grads = jax.value_and_grad(loss)(w)
        updates, opt_state = optimizer.update(
            grads, opt_state, w, value=value, grad=grads, value_fn=loss
        )
        return optax.apply_updates(w, updates), opt_state

    w = jnp.ones((4, 3))
    with jax.numpy_dtype_promotion("standard"):
        return step, w, optimizer.init(w), *batch()
