"""Steps that call back into Python, and steps that do not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import io_callback

import treadle

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, net

_EFFECT = "side-effect"


def _descent(w, x):
    return w - 0.01 * x.T @ (x @ w)


@case(_EFFECT)
def a_debug_print():
    @jax.jit
    def step(w, x):
        w = _descent(w, x)
        jax.debug.print("norm {}", jnp.sum(w**2))  # expect: side-effect
        return w

    return step, jnp.ones((4, 2)), batch()[0]


@case(_EFFECT)
def a_debug_callback():
    seen = []

    @jax.jit
    def step(w, x):
        jax.debug.callback(seen.append, jnp.sum(w))  # expect: side-effect
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_EFFECT)
def a_log_that_is_written_by_io_callback():
    @eqx.filter_jit
    def step(w, x):
        w = _descent(w, x)
        io_callback(lambda _: None, None, jnp.sum(w))  # expect: side-effect
        return w

    return step, jnp.ones((4, 2)), batch()[0]


@case(_EFFECT)
def a_loss_in_numpy():
    @jax.jit
    def step(w, x):
        like = jax.ShapeDtypeStruct((6, 4), jnp.float32)
        x = jax.pure_callback(lambda x: np.asarray(x) * 2, like, x)  # expect: side-effect
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_EFFECT)
def in_the_body_of_a_scan():
    @jax.jit
    def step(w, x):
        def body(w, row):
            jax.debug.print("{}", row)  # expect: side-effect
            return w - 0.01 * row[:, None] * (row @ w), None

        return jax.lax.scan(body, w, x)[0]

    return step, jnp.ones((4, 2)), batch()[0]


@case(_EFFECT)
def in_the_loss_of_a_treadle_step():
    def loss_fn(model, example, key):
        x, y = example
        logits = model(x, key)
        jax.debug.print("{}", logits)  # expect: side-effect
        return cross_entropy(logits, y)

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    return step, step.init(net()[0], key=jax.random.key(0)), batch()


@case(_EFFECT)
def in_a_branch_and_in_the_model():
    class Layer(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, x):
            y = self.linear(x)
            jax.debug.callback(lambda _: None, y)  # expect: side-effect
            return y

    @eqx.filter_jit
    def step(model, x):
        def loss(model):
            total = jnp.mean(jax.vmap(model)(x) ** 2)

            def warn():
                jax.debug.print("large")  # expect: side-effect

            jax.lax.cond(total > 1, warn, lambda: None)
            return total

        grads = eqx.filter_grad(loss)(model)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads))

    return step, Layer(eqx.nn.Linear(4, 3, key=jax.random.key(0))), batch()[0]


@case(_EFFECT)
def in_an_inner_jit():
    @jax.jit
    def shown(x):
        jax.debug.print("{}", x)  # expect: side-effect
        return x

    @jax.jit
    def step(w, x):
        return _descent(w, shown(x))

    return step, jnp.ones((4, 2)), batch()[0]


# -- right ----------------------------------------------------------------------------------------


@case(_EFFECT)
def right_metrics_are_returned():
    @jax.jit
    def step(w, x):
        w = _descent(w, x)
        return w, {"norm": jnp.sum(w**2)}

    return step, jnp.ones((4, 2)), batch()[0]


@case(_EFFECT)
def right_an_error_of_equinox():
    @eqx.filter_jit
    def step(w, x):
        x = eqx.error_if(x, jnp.any(jnp.isnan(x)), "not a number")
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_EFFECT)
def right_a_print_while_tracing():
    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        print("traced", end="")
        keys = jax.random.split(key, x.shape[0])

        def loss(model):
            return cross_entropy(jax.vmap(model)(x, keys), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *net(), *batch(), jax.random.key(0)


@case(_EFFECT)
def right_a_treadle_step_that_checks_what_is_finite():
    def loss_fn(model, example, key):
        x, y = example
        return cross_entropy(model(x, key), y)

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1), nonfinite="raise")
    return step, step.init(net()[0], key=jax.random.key(0)), batch()


@case(_EFFECT)
def a_print_in_the_rule_of_a_gradient():
    @jax.custom_vjp
    def watched(x):
        return x

    def forward(x):
        return x, None

    def backward(_, g):
        jax.debug.print("{}", jnp.max(g))  # expect: side-effect
        return (g,)

    watched.defvjp(forward, backward)

    @jax.jit
    def step(w, x):
        return w - 0.01 * jax.grad(lambda w: jnp.mean(watched(x @ w) ** 2))(w)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_EFFECT)
def a_breakpoint_of_equinox():
    @jax.jit
    def step(w, x):
        w = _descent(w, x)
        eqx.debug.breakpoint_if(jnp.any(jnp.isnan(w)))  # expect: side-effect
        return w

    return step, jnp.ones((4, 2)), batch()[0]
