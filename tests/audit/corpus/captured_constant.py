"""Large arrays that are part of the program, and arrays that are handed in."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import treadle

from . import case
from ._models import batch

_CAPTURED = "captured-constant"
_DATA = np.random.default_rng(0).normal(size=(1 << 16, 8)).astype(np.float32)


def _loss(w, x):
    return jnp.mean((x @ w) ** 2)


@case(_CAPTURED)
def the_whole_data_set():
    data = jnp.asarray(_DATA)

    @jax.jit
    def step(w, rows):
        x = data[rows]  # expect: captured-constant
        return w - 0.1 * jax.grad(_loss)(w, x)

    return step, jnp.ones((8, 2)), jnp.arange(16)


@case(_CAPTURED)
def a_numpy_array():
    def loss(w):
        return jnp.mean((_DATA @ w) ** 2)  # expect: captured-constant

    @jax.jit
    def step(w):
        return w - 0.1 * jax.grad(loss)(w)

    return step, jnp.ones((8, 2))


@case(_CAPTURED)
def a_model_in_a_closure():
    teacher = eqx.nn.Linear(4, 1 << 17, key=jax.random.key(0))

    @eqx.filter_jit
    def step(w, x):
        target = jax.vmap(teacher)(x)  # expect: captured-constant
        return w - 0.1 * jax.grad(lambda w: jnp.mean((x @ w - target.mean()) ** 2))(w)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_CAPTURED)
def a_table_made_while_tracing():
    @jax.jit
    def step(w, x):
        table = np.sin(np.arange(1 << 19, dtype=np.float32))
        return w - 0.1 * jnp.sum(x) * jnp.asarray(table).mean()  # expect: captured-constant

    return step, jnp.ones((4, 2)), batch()[0]


@case(_CAPTURED)
def in_the_body_of_a_scan():
    embedding = jnp.asarray(_DATA)

    @jax.jit
    def run(w, rows):
        def body(w, row):
            x = embedding[row]  # expect: captured-constant
            return w - 0.1 * x[:, None] * (x @ w), None

        return jax.lax.scan(body, w, rows)[0]

    return run, jnp.ones((8, 2)), jnp.arange(3)


@case(_CAPTURED)
def in_an_inner_function():
    features = jnp.asarray(_DATA)

    @jax.jit
    def embed(rows):
        return features[rows]  # expect: captured-constant

    @jax.jit
    def step(w, rows):
        return w - 0.1 * jax.grad(_loss)(w, embed(rows))

    return step, jnp.ones((8, 2)), jnp.arange(4)


@case(_CAPTURED)
def in_the_loss_of_a_treadle_step():
    table = jnp.asarray(_DATA)

    def loss_fn(model, example, key):
        return jnp.mean(model(table[example]) ** 2)  # expect: captured-constant

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    model = eqx.nn.Linear(8, 2, key=jax.random.key(0))
    return step, step.init(model, key=jax.random.key(0)), np.arange(4, dtype=np.int32)


@case(_CAPTURED)
def in_a_branch():
    mask = jnp.asarray(_DATA)

    @jax.jit
    def step(w, x):
        def masked(x):
            return x * mask[: x.shape[0], :4]  # expect: captured-constant

        x = jax.lax.cond(jnp.sum(x) > 0, masked, lambda x: x, x)
        return w - 0.1 * jax.grad(_loss)(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


# -- right ----------------------------------------------------------------------------------------


@case(_CAPTURED)
def right_handed_in():
    @jax.jit
    def step(w, data, rows):
        return w - 0.1 * jax.grad(_loss)(w, data[rows])

    return step, jnp.ones((8, 2)), jnp.asarray(_DATA), jnp.arange(16)


@case(_CAPTURED)
def right_small_tables():
    table = jnp.sin(jnp.arange(2.0**14)).reshape(-1, 4)

    @jax.jit
    def step(w, x):
        return w - 0.1 * jax.grad(_loss)(w, x + table[: x.shape[0]])

    return step, jnp.ones((4, 2)), batch()[0]


@case(_CAPTURED)
def right_made_by_the_program():
    @jax.jit
    def step(w, x):
        mask = jnp.tril(jnp.ones((1024, 1024)))
        return w - 0.1 * jax.grad(_loss)(w, x) * mask.mean()

    return step, jnp.ones((4, 2)), batch()[0]


@case(_CAPTURED)
def right_arrays_of_a_bound_method():
    class Table(eqx.Module):
        rows: jax.Array

        @eqx.filter_jit
        def step(self, w, x):
            return w - 0.1 * jax.grad(_loss)(w, x) * self.rows.mean()

    return Table(jnp.asarray(_DATA)).step, jnp.ones((4, 2)), batch()[0]


@case(_CAPTURED)
def right_args_of_a_treadle_step():
    def loss_fn(model, example, key, args):
        return jnp.mean(model(args[example]) ** 2)

    class WithTable(eqx.Module):
        step: treadle.TrainStep = eqx.field(static=True)

        def __call__(self, state, batch, args):
            return self.step(state, batch, args=args)

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    model = eqx.nn.Linear(8, 2, key=jax.random.key(0))
    state = step.init(model, key=jax.random.key(0))

    @jax.jit
    def run(state, batch, args):
        return step.pure(state, batch, args=args)

    return run, state, np.arange(4, dtype=np.int32), jnp.asarray(_DATA)


def _layer(w, x):
    return jnp.tanh(x @ w)


@case(_CAPTURED)
def a_teacher_in_a_helper():
    teacher = jnp.ones((4, 1 << 17))

    @jax.jit
    def step(w, x):
        def loss(w):
            soft = _layer(teacher, x)  # expect: captured-constant
            return jnp.mean((soft - x @ w) ** 2)

        return w - 0.1 * jax.grad(loss)(w)

    return step, jnp.ones((4, 1)), batch()[0]


@case(_CAPTURED)
def a_teacher_of_the_trainer_in_a_helper():
    class Trainer:
        def __init__(self):
            self.teacher = jnp.ones((4, 1 << 17))
            self.step = jax.jit(self._step)

        def _step(self, w, x):
            soft = _layer(self.teacher, x)  # expect: captured-constant
            return w - 0.1 * jax.grad(lambda w: jnp.mean((soft - x @ w) ** 2))(w)

    return Trainer().step, jnp.ones((4, 1)), batch()[0]


@case(_CAPTURED)
def a_model_of_many_arrays():
    model = eqx.nn.MLP(256, 256, 256, 5, key=jax.random.key(0))

    @jax.jit
    def predict(x):
        return jax.vmap(model)(x)  # expect: captured-constant

    return predict, jnp.ones((2, 256))
