"""Steps that change something while they are traced, and steps that do not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import treadle

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, net

_MUTATED = "mutated-closure"
_CALLS = 0
_SEEN = {}


def _descent(w, x):
    return w - 0.01 * x.T @ (x @ w)


@case(_MUTATED)
def a_list_of_the_closure():
    shapes = []

    @jax.jit
    def step(w, x):
        shapes.append(x.shape)  # expect: mutated-closure
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def a_counter_of_the_module():
    @jax.jit
    def step(w, x):
        global _CALLS
        _CALLS += 1  # expect: mutated-closure
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def a_dictionary_of_the_module():
    @eqx.filter_jit
    def step(w, x):
        _SEEN["last"] = x.shape  # expect: mutated-closure
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def a_nonlocal_counter():
    calls = 0

    @jax.jit
    def step(w, x):
        nonlocal calls
        calls += 1  # expect: mutated-closure
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def an_attribute_of_the_trainer():
    class Trainer:
        def __init__(self):
            self.steps = 0

        def step(self, w, x):
            self.steps += 1  # expect: mutated-closure
            return _descent(w, x)

    return jax.jit(Trainer().step), jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def an_attribute_of_a_class():
    class Counter:
        calls = 0

    @jax.jit
    def step(w, x):
        Counter.calls += 1  # expect: mutated-closure
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def in_a_function_that_is_called():
    seen = set()

    def normalise(x):
        seen.add(x.shape)  # expect: mutated-closure
        return x / 2

    @jax.jit
    def step(w, x):
        return _descent(w, normalise(x))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def a_numpy_array_in_place():
    statistics = np.zeros(3)

    @jax.jit
    def step(w, x):
        statistics[0] += 1  # expect: mutated-closure
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def the_loss_of_a_treadle_step():
    calls = []

    def loss_fn(model, example, key):
        calls.append(1)  # expect: mutated-closure
        x, y = example
        return cross_entropy(model(x, key), y)

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    return step, step.init(net()[0], key=jax.random.key(0)), batch()


# -- right ----------------------------------------------------------------------------------------


@case(_MUTATED)
def right_lists_of_its_own():
    @jax.jit
    def step(w, x):
        parts = []
        for row in range(3):
            parts.append(x[row] * 2)
        return _descent(w, jnp.stack(parts))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def right_reads_the_closure():
    settings = {"rate": 0.01}

    class Schedule:
        def __init__(self):
            self.scale = 2.0

        def __call__(self, rate):
            return rate * self.scale

    schedule = Schedule()

    @jax.jit
    def step(w, x):
        return w - schedule(settings["rate"]) * x.T @ (x @ w)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def right_the_state_is_returned():
    @jax.jit
    def step(state, x):
        return {**state, "w": _descent(state["w"], x), "calls": state["calls"] + 1}

    return step, {"w": jnp.ones((4, 2)), "calls": jnp.int32(0)}, batch()[0]


@case(_MUTATED)
def right_equinox():
    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        keys = jax.random.split(key, x.shape[0])

        def loss(model):
            return cross_entropy(jax.vmap(model)(x, keys), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *net(), *batch(), jax.random.key(0)


@case(_MUTATED)
def an_attribute_of_the_function():
    def step(w, x):
        step.calls += 1  # expect: mutated-closure
        return _descent(w, x)

    step.calls = 0
    return jax.jit(step), jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def a_list_among_the_defaults_of_a_helper():
    def loss(w, x, shapes=[]):  # noqa: B006
        shapes.append(x.shape)  # expect: mutated-closure
        return jnp.mean((x @ w) ** 2)

    @jax.jit
    def step(w, x):
        return w - 0.01 * jax.grad(loss)(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def a_logger_of_the_trainer():
    class Logger:
        def __init__(self):
            self.rows = []

        def log(self, *names):
            self.rows.append(names)  # expect: mutated-closure

    class Trainer:
        def __init__(self):
            self.logger = Logger()

        def step(self, w, x):
            self.logger.log("loss")
            return _descent(w, x)

    return jax.jit(Trainer().step), jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def a_counter_of_the_models_class():
    class Layer(eqx.Module):
        weight: jax.Array

        def __call__(self, x):
            Layer.calls += 1  # expect: mutated-closure
            return x @ self.weight

    Layer.calls = 0

    @eqx.filter_jit
    def step(layer, x):
        grads = eqx.filter_grad(lambda layer: jnp.mean(layer(x) ** 2))(layer)
        return eqx.apply_updates(layer, jax.tree.map(lambda g: -0.01 * g, grads))

    return step, Layer(jnp.ones((4, 2))), batch()[0]


@case(_MUTATED, needs="flax")
def a_list_that_a_flax_module_appends_to():
    import flax.linen as nn

    shapes = []

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            shapes.append(x.shape)  # expect: mutated-closure
            return nn.Dense(2)(x)

    model, x = Net(), batch()[0]
    params = model.init(jax.random.key(0), x)

    @jax.jit
    def step(params, x):
        grads = jax.grad(lambda p: jnp.mean(model.apply(p, x) ** 2))(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)

    return step, params, x


@case(_MUTATED)
def a_table_that_is_kept():
    tables = {}

    def table(size):
        if size not in tables:
            tables[size] = np.tril(np.ones((size, size), np.float32))  # expect: mutated-closure
        return tables[size]

    @jax.jit
    def step(w, x):
        return _descent(w, table(x.shape[0]) @ x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_MUTATED)
def right_a_stack_that_is_popped():
    stack = []

    @jax.jit
    def step(w, x):
        stack.append("step")
        w = _descent(w, x)
        stack.pop()
        return w

    return step, jnp.ones((4, 2)), batch()[0]
