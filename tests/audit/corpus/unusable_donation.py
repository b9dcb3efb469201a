"""Memory that is given away for nothing, and memory that is used."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import treadle

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, net, params

_UNUSABLE = "unusable-donation"


def _loss(p, x, y):
    hidden = jax.nn.relu(x @ p["w1"] + p["b1"])
    return cross_entropy(hidden @ p["w2"] + p["b2"], y)


def _descent(p, x, y):
    value, grads = jax.value_and_grad(_loss)(p, x, y)
    return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value


def _update(model, opt_state, x, y, key):
    keys = jax.random.split(key, x.shape[0])

    def loss(model):
        return cross_entropy(jax.vmap(model)(x, keys), y)

    value, grads = eqx.filter_value_and_grad(loss)(model)
    updates, opt_state = OPTIMIZER.update(grads, opt_state)
    return eqx.apply_updates(model, updates), opt_state, value


@case(_UNUSABLE)
def the_batch_is_donated():
    def step(p, x, y):  # expect: unusable-donation
        return _descent(p, x, y)

    return jax.jit(step, donate_argnums=(0, 1)), params(), *batch()


@case(_UNUSABLE)
def all_is_donated():
    @eqx.filter_jit(donate="all")  # expect: unusable-donation
    def step(model, opt_state, batch, key):
        return _update(model, opt_state, *batch, key)

    return step, *net(), batch(), jax.random.key(0)


@case(_UNUSABLE)
def parameters_that_come_back_in_bfloat16():
    def step(w, x):  # expect: unusable-donation
        return (w - 0.01 * x.T @ (x @ w)).astype(jnp.bfloat16)

    return jax.jit(step, donate_argnums=0), jnp.ones((4, 2)), batch()[0]


@case(_UNUSABLE)
def a_state_of_which_only_the_loss_comes_back():
    def evaluate(p, x, y):  # expect: unusable-donation
        return _loss(p, x, y)

    return jax.jit(evaluate, donate_argnums=0), params(), *batch()


@case(_UNUSABLE)
def gradients_into_one_of_two():
    def apply(p, grads, scale):  # expect: unusable-donation
        return jax.tree.map(lambda p, g: p - scale * g, p, grads)

    return jax.jit(apply, donate_argnums=(0, 1)), params(), params(), 0.1


@case(_UNUSABLE)
def a_buffer_that_is_cut_short():
    def push(history, x):  # expect: unusable-donation
        return jnp.concatenate([history[2:], x[:1]])

    return jax.jit(push, donate_argnums=0), jnp.ones((8, 4)), batch()[0]


@case(_UNUSABLE)
def inference_that_donates_the_model():
    @eqx.filter_jit(donate="warn")  # expect: unusable-donation
    def predict(model, x):
        return jax.vmap(model)(x)

    return predict, eqx.nn.Linear(4, 3, key=jax.random.key(0)), batch()[0]


@case(_UNUSABLE)
def activations_that_are_averaged():
    def pooled(w, x):  # expect: unusable-donation
        return jnp.tanh(x @ w).mean(0)

    return jax.jit(pooled, donate_argnums=1), jnp.ones((4, 2)), batch()[0]


# -- right ----------------------------------------------------------------------------------------


@case(_UNUSABLE)
def right_only_the_parameters():
    def step(p, x, y):
        return _descent(p, x, y)

    return jax.jit(step, donate_argnums=0), params(), *batch()


@case(_UNUSABLE)
def right_data_and_key_first():
    @eqx.filter_jit(donate="all-except-first")
    def step(data, model, opt_state):
        return _update(model, opt_state, *data)

    return step, (*batch(), jax.random.key(0)), *net()


@case(_UNUSABLE)
def right_an_argument_that_nothing_reads():
    def step(p, unused, x, y):
        return _descent(p, x, y)

    return jax.jit(step, donate_argnums=0), params(), jnp.ones(7), *batch()


@case(_UNUSABLE)
def right_treadle_with_schedule_clipping_and_average():
    def loss_fn(model, example, key):
        x, y = example
        return cross_entropy(model(x, key), y)

    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    step = treadle.TrainStep(loss_fn, optimizer, ema=0.99)
    return step, step.init(net()[0], key=jax.random.key(0)), batch()


@case(_UNUSABLE)
def right_injected_hyperparameters():
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)

    def step(p, opt_state, x, y):
        value, grads = jax.value_and_grad(_loss)(p, x, y)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(p, updates), opt_state, value

    p = params()
    return jax.jit(step, donate_argnums=(0, 1)), p, optimizer.init(p), *batch()


@case(_UNUSABLE)
def the_batch_donated_to_pmap():
    @functools.partial(jax.pmap, donate_argnums=(0, 1))  # expect: unusable-donation
    def step(p, x, y):
        return _descent(p, x, y)

    p, (x, y) = jax.tree.map(lambda leaf: leaf[None], params()), batch(5)
    return step, p, x[None], y[None]


@case(_UNUSABLE)
def right_beside_effects_in_order():
    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(w, xs):
        def body(w, x):
            loss, grad = jax.value_and_grad(lambda w: jnp.sum((x @ w) ** 2))(w)
            jax.debug.print("{}", loss, ordered=True)  # treadle: ignore[side-effect]
            return w - 0.1 * grad, loss

        return jax.lax.scan(body, w, xs)

    return epoch, jnp.ones(4), jnp.ones((3, 2, 4))
