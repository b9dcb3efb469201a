"""Steps that run operation by operation, and steps that are compiled."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import treadle

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, net, params

_UNCOMPILED = "uncompiled"


def _loss(p, x, y):
    hidden = jax.nn.relu(x @ p["w1"] + p["b1"])
    return cross_entropy(hidden @ p["w2"] + p["b2"], y)


def _model_loss(model, x, y, keys):
    return cross_entropy(jax.vmap(model)(x, keys), y)


@case(_UNCOMPILED)
def no_jit_at_all():
    def step(p, x, y):  # expect: uncompiled
        value, grads = jax.value_and_grad(_loss)(p, x, y)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    return step, params(), *batch()


@case(_UNCOMPILED)
def no_filter_jit():
    def step(model, opt_state, x, y, key):  # expect: uncompiled
        keys = jax.random.split(key, x.shape[0])
        value, grads = eqx.filter_value_and_grad(_model_loss)(model, x, y, keys)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *net(), *batch(), jax.random.key(0)


@case(_UNCOMPILED)
def only_the_gradient_is_compiled():
    gradient = jax.jit(jax.value_and_grad(_loss))

    def step(p, opt_state, x, y):  # expect: uncompiled
        value, grads = gradient(p, x, y)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(p, updates), opt_state, value

    return step, params(), OPTIMIZER.init(params()), *batch()


@case(_UNCOMPILED)
def only_the_forward_pass_is_compiled():
    @jax.jit
    def forward(p, x):
        return jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]

    def step(p, x, y):  # expect: uncompiled
        grads = jax.grad(lambda p: cross_entropy(forward(p, x), y))(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)

    return step, params(), *batch()


@case(_UNCOMPILED)
def the_pure_half_of_a_treadle_step():
    def loss_fn(model, example, key):
        x, y = example
        return cross_entropy(model(x, key), y)

    step = treadle.TrainStep(loss_fn, OPTIMIZER)
    state = step.init(net()[0], key=jax.random.key(0))

    def update(state, batch):  # expect: uncompiled
        state, metrics = step.pure(state, batch)
        return state, jax.tree.map(lambda value: value * 2, metrics)

    return update, state, batch()


@case(_UNCOMPILED)
def a_partial_application():
    def step(rate, p, x, y):  # expect: uncompiled
        grads = jax.grad(_loss)(p, x, y)
        return jax.tree.map(lambda p, g: p - rate * g, p, grads)

    return functools.partial(step, 0.1), params(), *batch()


@case(_UNCOMPILED)
def a_method():
    class Trainer:
        def step(self, p, x, y):  # expect: uncompiled
            grads = jax.grad(_loss)(p, x, y)
            return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)

    return Trainer().step, params(), *batch()


@case(_UNCOMPILED)
def two_compiled_halves():
    @jax.jit
    def gradient(p, x, y):
        return jax.grad(_loss)(p, x, y)

    @jax.jit
    def apply(p, grads):
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)

    def step(p, x, y):  # expect: uncompiled
        return apply(p, gradient(p, x, y))

    return step, params(), *batch()


# -- right ----------------------------------------------------------------------------------------


@case(_UNCOMPILED)
def right_jit():
    @jax.jit
    def step(p, x, y):
        value, grads = jax.value_and_grad(_loss)(p, x, y)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    return step, params(), *batch()


@case(_UNCOMPILED)
def right_filter_jit():
    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        keys = jax.random.split(key, x.shape[0])
        value, grads = eqx.filter_value_and_grad(_model_loss)(model, x, y, keys)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *net(), *batch(), jax.random.key(0)


@case(_UNCOMPILED)
def right_a_function_around_a_compiled_one():
    @jax.jit
    def compiled(p, x, y):
        value, grads = jax.value_and_grad(_loss)(p, x, y)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    def step(p, batch, key):
        key, _ = jax.random.split(key)
        return *compiled(p, *batch), key

    return step, params(), batch(), jax.random.PRNGKey(0)


@case(_UNCOMPILED)
def right_a_compiled_method():
    class Trainer(eqx.Module):
        rate: float

        @eqx.filter_jit
        def step(self, p, x, y):
            grads = jax.grad(_loss)(p, x, y)
            return jax.tree.map(lambda p, g: p - self.rate * g, p, grads)

    return Trainer(0.1).step, params(), *batch()


@case(_UNCOMPILED)
def right_a_partial_application_of_a_compiled_one():
    @jax.jit
    def step(rate, p, x, y):
        grads = jax.grad(_loss)(p, x, y)
        return jax.tree.map(lambda p, g: p - rate * g, p, grads)

    return functools.partial(step, jnp.float32(0.1)), params(), *batch()


@case(_UNCOMPILED)
def right_an_eval_step():
    metric = treadle.EvalStep(lambda model, e: {"hit": jnp.argmax(model(e[0])) == e[1]})
    return metric, eqx.nn.Linear(4, 3, key=jax.random.key(0)), batch()


@case(_UNCOMPILED)
def a_compiled_call_of_a_module():
    class Step(eqx.Module):
        rate: float

        @eqx.filter_jit
        def __call__(self, p, x, y):
            grads = jax.grad(_loss)(p, x, y)
            return jax.tree.map(lambda p, g: p - self.rate * g, p, grads)

    return Step(0.1), params(), *batch()


@case(_UNCOMPILED)
def under_pmap():
    @functools.partial(jax.pmap, axis_name="devices")
    def step(p, x, y):
        grads = jax.lax.pmean(jax.grad(_loss)(p, x, y), "devices")
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)

    x, y = batch()
    return step, jax.tree.map(lambda leaf: leaf[None], params()), x[None], y[None]


@case(_UNCOMPILED, needs="flax")
def a_train_state_of_flax_by_hand():
    import flax.linen as nn
    from flax.training import train_state

    model = nn.Dense(3)
    variables = model.init(jax.random.key(0), batch()[0])
    state = train_state.TrainState.create(
        apply_fn=model.apply, params=variables["params"], tx=optax.sgd(1e-2)
    )

    def step(state, x, y):  # expect: uncompiled
        def loss(p):
            return cross_entropy(state.apply_fn({"params": p}, x), y)

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    return step, state, *batch()
