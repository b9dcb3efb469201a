"""Keys that are the same in every step, and keys that are not."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import treadle

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, net, params

_CONSTANT = "key-constant"


def _descent(w, x):
    return w - 0.01 * x.T @ (x @ w)


@case(_CONSTANT)
def made_inside_of_the_step():
    @eqx.filter_jit
    def step(model, opt_state, x, y):
        key = jax.random.key(0)  # expect: key-constant
        keys = jax.random.split(key, x.shape[0])

        def loss(model):
            return cross_entropy(jax.vmap(model)(x, keys), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *net(), *batch()


@case(_CONSTANT)
def a_raw_key_made_inside_of_the_loss():
    @jax.jit
    def step(p, x, y):
        def loss(p):
            noise = jax.random.normal(jax.random.PRNGKey(42), x.shape)  # expect: key-constant
            hidden = jax.nn.relu((x + noise) @ p["w1"] + p["b1"])
            return cross_entropy(hidden @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    return step, params(), *batch()


@case(_CONSTANT)
def captured_by_the_step():
    key = jax.random.key(7)

    @jax.jit
    def step(w, x):
        return _descent(w, x + jax.random.normal(key, x.shape))  # expect: key-constant

    return step, jnp.ones((4, 2)), batch()[0]


@case(_CONSTANT)
def a_raw_key_captured_and_split():
    key = jax.random.PRNGKey(7)

    @jax.jit
    def step(w, x):
        one, two = jax.random.split(key)  # expect: key-constant
        x = x + jax.random.normal(one, x.shape)
        return _descent(w, x * jax.random.bernoulli(two, 0.5, x.shape))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_CONSTANT)
def folded_with_the_number_of_the_layer_only():
    @jax.jit
    def step(w, x):
        key = jax.random.key(1)  # expect: key-constant

        def body(x, layer):
            return x + jax.random.normal(jax.random.fold_in(key, layer), x.shape), None

        x, _ = jax.lax.scan(body, x, jnp.arange(3))
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_CONSTANT)
def a_default_argument():
    @functools.partial(jax.jit, static_argnames="seed")
    def step(w, x, seed=0):
        key = jax.random.PRNGKey(seed)  # expect: key-constant
        return _descent(w, x * jax.random.bernoulli(key, 0.9, x.shape))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_CONSTANT)
def a_seed_drawn_on_the_host():
    seed = int(np.random.default_rng(0).integers(1000))

    @jax.jit
    def step(w, x):
        key = jax.random.key(seed)  # expect: key-constant
        return _descent(w, x + jax.random.uniform(key, x.shape))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_CONSTANT)
def the_loss_of_a_treadle_step_makes_its_own():
    def loss_fn(model, example, key):
        x, y = example
        logits = model(x, jax.random.key(0))  # expect: key-constant
        return cross_entropy(logits, y)

    step = treadle.TrainStep(loss_fn, OPTIMIZER)
    return step, step.init(net()[0], key=jax.random.key(0)), batch()


@case(_CONSTANT)
def in_a_branch_of_a_cond():
    @jax.jit
    def step(w, x):
        def noisy(x):
            key = jax.random.key(5)  # expect: key-constant
            return x + jax.random.normal(key, x.shape)

        return _descent(w, jax.lax.cond(jnp.sum(x) > 0, noisy, lambda x: x, x))

    return step, jnp.ones((4, 2)), batch()[0]


# -- right ----------------------------------------------------------------------------------------


@case(_CONSTANT)
def right_a_constant_folded_with_the_step():
    root = jax.random.key(0)

    @jax.jit
    def step(w, x, number):
        key = jax.random.fold_in(root, number)
        return _descent(w, x + jax.random.normal(key, x.shape))

    return step, jnp.ones((4, 2)), batch()[0], 3


@case(_CONSTANT)
def right_made_from_the_number_of_the_step():
    @jax.jit
    def step(state, x):
        key = jax.random.PRNGKey(state["step"])
        w = _descent(state["w"], x + jax.random.normal(key, x.shape))
        return {"w": w, "step": state["step"] + 1}

    return step, {"w": jnp.ones((4, 2)), "step": jnp.int32(0)}, batch()[0]


@case(_CONSTANT)
def right_handed_in():
    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        keys = jax.random.split(key, x.shape[0])

        def loss(model):
            return cross_entropy(jax.vmap(model)(x, keys), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *net(), *batch(), jax.random.key(0)


@case(_CONSTANT)
def right_a_key_that_nothing_draws_from():
    model = eqx.nn.inference_mode(net()[0])

    @eqx.filter_jit
    def predict(model, x):
        return jax.vmap(lambda x: model(x, jax.random.key(0)))(x)

    return predict, model, batch()[0]


@case(_CONSTANT)
def right_keys_in_the_state():
    @jax.jit
    def step(state, x):
        key, sub = jax.random.split(state["key"])
        w = _descent(state["w"], x + jax.random.normal(sub, x.shape))
        return {"w": w, "key": key}

    return step, {"w": jnp.ones((4, 2)), "key": jax.random.PRNGKey(0)}, batch()[0]


_ROOT = jax.random.PRNGKey(0)


def _dropped(x, key):
    return x * jax.random.bernoulli(key, 0.9, x.shape)


@case(_CONSTANT)
def a_key_of_the_trainer_in_a_helper():
    class Trainer:
        def __init__(self):
            self.key = jax.random.key(0)

        @functools.partial(jax.jit, static_argnums=0)
        def step(self, w, x):
            return _descent(w, _dropped(x, self.key))  # expect: key-constant

    return Trainer().step, jnp.ones((4, 2)), batch()[0]


@case(_CONSTANT)
def a_default_of_a_helper():
    def noisy(x, key=_ROOT):
        return x + jax.random.normal(key, x.shape)  # expect: key-constant

    @jax.jit
    def step(w, x):
        return _descent(w, noisy(x))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_CONSTANT, needs="flax")
def a_captured_key_for_dropout_of_flax():
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dropout(0.2, deterministic=False)(x)
            return nn.Dense(3)(x)

    model, x = Net(), batch()[0]
    root, mask = jax.random.split(jax.random.key(0))
    params = model.init({"params": root, "dropout": mask}, x)

    @jax.jit
    def step(params, x):
        def loss(params):
            out = model.apply(params, x, rngs={"dropout": mask})  # expect: key-constant
            return jnp.mean(out**2)

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    return step, params, x


@case(_CONSTANT, needs="flax")
def a_seed_handed_to_flax():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 3, rngs=rngs)
            self.dropout = nnx.Dropout(0.2)

        def __call__(self, x, rngs):
            return self.dropout(self.linear(x), rngs=rngs)

    graph, params = nnx.split(Net(nnx.Rngs(0)))

    @jax.jit
    def step(params, x):
        def loss(params):
            rngs = nnx.Rngs(0)  # expect: key-constant
            return jnp.mean(nnx.merge(graph, params)(x, rngs) ** 2)

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    return step, params, batch()[0]


@case(_CONSTANT, needs="haiku")
def a_seed_handed_to_haiku():
    import haiku as hk

    def forward(x):
        return hk.Linear(3)(hk.dropout(hk.next_rng_key(), 0.1, x))

    net, x = hk.transform(forward), batch()[0]
    params = net.init(jax.random.key(0), x)

    @jax.jit
    def step(params, x):
        def loss(params):
            return jnp.mean(net.apply(params, 42, x) ** 2)  # expect: key-constant

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    return step, params, x
