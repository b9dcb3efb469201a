"""Right steps of more kinds: what looks like a fault in them is none."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import treadle

from . import case
from ._models import batch, cross_entropy, params

_RIGHT = "right steps of more kinds"


def _regression(size=6):
    x = jnp.linspace(-1, 1, 4 * size).reshape(size, 4)
    return x, jnp.sin(x[:, :1])


def _mlp(key=0):
    return eqx.nn.MLP(4, 1, 8, 1, key=jax.random.key(key))


def _trainable(model):
    return eqx.filter(model, eqx.is_inexact_array)


def _squares(model, x, y):
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


@case(_RIGHT)
def right_gradients_of_a_score_with_time_and_noise():
    model = eqx.nn.MLP(5, 4, 8, 1, key=jax.random.key(0))
    optimizer = optax.adam(1e-3)

    def score_loss(model, x, t, key):
        spread = jnp.sqrt(1 - jnp.exp(-t))
        noise = jax.random.normal(key, x.shape)
        noisy = x * jnp.exp(-t / 2) + spread * noise
        return jnp.mean((model(jnp.append(noisy, t)) + noise / spread) ** 2)

    @eqx.filter_jit(donate="all-except-first")
    def step(x, model, opt_state, key):
        key, for_times, for_noise = jax.random.split(key, 3)
        size = x.shape[0]
        times = jax.random.uniform(for_times, (size,), minval=0.1, maxval=1 / size)
        times = times + jnp.arange(size) / size
        keys = jax.random.split(for_noise, size)

        def loss(model):
            return jnp.mean(jax.vmap(score_loss, (None, 0, 0, 0))(model, x, times, keys))

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = optimizer.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, key, value

    return step, _regression()[0], model, optimizer.init(_trainable(model)), jax.random.key(1)


@case(_RIGHT)
def right_a_perturbed_second_gradient():
    optimizer = optax.sgd(0.1)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(p, opt_state, x, y):
        def loss(p):
            return cross_entropy(jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"], y)

        grads = jax.grad(loss)(p)
        scale = 0.05 / (optax.global_norm(grads) + 1e-12)
        perturbed = jax.tree.map(lambda leaf, g: leaf + scale * g, p, grads)
        value, grads = jax.value_and_grad(loss)(perturbed)
        updates, opt_state = optimizer.update(grads, opt_state, p)
        return optax.apply_updates(p, updates), opt_state, value

    p = params()
    return step, p, optimizer.init(p), *batch()


@case(_RIGHT)
def right_an_inner_loop_of_gradients():
    @functools.partial(jax.jit, donate_argnums=0)
    def step(p, xs, ys):
        def adapted(p, x, y):
            def loss(p):
                return cross_entropy(jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"], y)

            for _ in range(2):
                p = jax.tree.map(lambda leaf, g: leaf - 0.1 * g, p, jax.grad(loss)(p))
            return loss(p)

        def outer(p):
            return jnp.mean(jax.vmap(adapted, (None, 0, 0))(p, xs, ys))

        value, grads = jax.value_and_grad(outer)(p)
        return jax.tree.map(lambda leaf, g: leaf - 0.01 * g, p, grads), value

    x, y = batch()
    return step, params(), x.reshape(2, 3, 4), y.reshape(2, 3)


@case(_RIGHT)
def right_an_attack_in_a_loop():
    @functools.partial(jax.jit, donate_argnums=0)
    def step(w, x, y):
        def loss(w, x):
            return jnp.mean((x @ w - y) ** 2)

        def turn(_, attacked):
            attacked = attacked + 0.01 * jnp.sign(jax.grad(loss, argnums=1)(w, attacked))
            return x + jnp.clip(attacked - x, -0.05, 0.05)

        attacked = jax.lax.stop_gradient(jax.lax.fori_loop(0, 3, turn, x))
        return w - 0.1 * jax.grad(loss)(w, attacked)

    return step, jnp.ones((4, 1)), *_regression()


@case(_RIGHT)
def right_a_loss_scale_that_moves():
    optimizer = optax.adam(1e-3)
    model = _mlp()

    def half(tree):
        return jax.tree.map(lambda a: a.astype(jnp.float16) if eqx.is_inexact_array(a) else a, tree)

    @eqx.filter_jit(donate="all-except-first")
    def step(batch, model, opt_state, scale, good):
        x, y = batch

        def loss(model):
            predicted = jax.vmap(half(model))(x.astype(jnp.float16)).astype(jnp.float32)
            return jnp.mean((predicted - y) ** 2) * scale

        grads = jax.tree.map(lambda g: g / scale, eqx.filter_grad(loss)(model))
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads)]))
        updates, moments = optimizer.update(grads, opt_state)

        def chosen(new, old):
            return jnp.where(finite, new, old) if eqx.is_array(new) else new

        model = jax.tree.map(chosen, eqx.apply_updates(model, updates), model)
        opt_state = jax.tree.map(chosen, moments, opt_state)
        good = jnp.where(finite, good + 1, 0)
        grown = jnp.where(good >= 2_000, scale * 2, scale)
        scale = jnp.where(finite, grown, jnp.maximum(scale / 2, 1.0))
        return model, opt_state, scale, jnp.where(good >= 2_000, 0, good)

    state = optimizer.init(_trainable(model))
    return step, _regression(), model, state, jnp.float32(2.0**15), jnp.int32(0)


@case(_RIGHT)
def right_a_teacher_that_follows():
    optimizer = optax.adam(1e-3)
    student, teacher = _mlp(0), _mlp(1)

    @eqx.filter_jit(donate="all-except-first")
    def step(x, student, teacher, opt_state, key):
        key, one, two = jax.random.split(key, 3)
        views = [x + 0.1 * jax.random.normal(each, x.shape) for each in (one, two)]

        def loss(student):
            wanted = jax.lax.stop_gradient(jax.vmap(teacher)(views[1]))
            return jnp.mean((jax.vmap(student)(views[0]) - wanted) ** 2)

        updates, opt_state = optimizer.update(eqx.filter_grad(loss)(student), opt_state)
        student = eqx.apply_updates(student, updates)
        new, old = _trainable(student), _trainable(teacher)
        teacher = eqx.combine(optax.incremental_update(new, old, 0.01), teacher)
        return student, teacher, opt_state, key

    state = optimizer.init(_trainable(student))
    return step, _regression()[0], student, teacher, state, jax.random.PRNGKey(0)


@case(_RIGHT)
def right_noise_for_every_leaf():
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(p, key, x, y):
        def loss(p):
            return cross_entropy(jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"], y)

        key, draw = jax.random.split(key)
        leaves, treedef = jax.tree.flatten(p)
        keys = jax.tree.unflatten(treedef, list(jax.random.split(draw, len(leaves))))

        def moved(leaf, g, key):
            return leaf - 0.01 * g + 0.1 * jax.random.normal(key, leaf.shape)

        return jax.tree.map(moved, p, jax.grad(loss)(p), keys), key

    return step, params(), jax.random.PRNGKey(0), *batch()


@case(_RIGHT)
def right_text_generated_token_by_token():
    parts = (
        eqx.nn.Embedding(8, 4, key=jax.random.key(0)),
        eqx.nn.GRUCell(4, 6, key=jax.random.key(1)),
        eqx.nn.Linear(6, 8, key=jax.random.key(2)),
    )

    @eqx.filter_jit
    def generate(parts, key):
        embedding, cell, head = parts

        def turn(carry, key):
            hidden, token = carry
            hidden = cell(embedding(token), hidden)
            token = jax.random.categorical(key, head(hidden))
            return (hidden, token), token

        start = jnp.zeros(6), jnp.int32(0)
        return jax.lax.scan(turn, start, jax.random.split(key, 5))[1]

    return generate, parts, jax.random.key(3)


@case(_RIGHT)
def right_an_ensemble_with_its_optimizers():
    optimizer = optax.adam(1e-2)
    keys = jax.random.split(jax.random.key(0), 3)
    models = eqx.filter_vmap(lambda key: eqx.nn.MLP(4, 1, 8, 1, key=key))(keys)
    states = eqx.filter_vmap(lambda model: optimizer.init(_trainable(model)))(models)

    @eqx.filter_jit(donate="all-except-first")
    def step(batch, models, states):
        @eqx.filter_vmap(in_axes=(eqx.if_array(0), eqx.if_array(0)))
        def one(model, state):
            loss, grads = eqx.filter_value_and_grad(_squares)(model, *batch)
            updates, state = optimizer.update(grads, state)
            return eqx.apply_updates(model, updates), state, loss

        return one(models, states)

    return step, _regression(), models, states


@case(_RIGHT)
def right_examples_that_see_each_other():
    def loss(model, x, key):
        z = model(x, key=key)
        z = z / (jnp.linalg.norm(z) + 1e-6)
        scores = jax.lax.all_gather(z, "batch") @ z
        label = jax.lax.axis_index("batch")
        return optax.softmax_cross_entropy_with_integer_labels(scores, label)

    step = treadle.TrainStep(loss, optax.adam(1e-3), axis_name="batch")
    model = treadle.nn.MLP(4, 2, 8, 1, dropout=0.1, key=jax.random.key(0))
    return step, step.init(model, key=jax.random.key(1)), _regression()[0]
