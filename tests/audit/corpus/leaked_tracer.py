"""Steps that store intermediate values outside, and steps that return them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import treadle

from . import case
from ._models import batch, cross_entropy, net

_LEAKED = "leaked-tracer"
_LOG = {}
_LAST = None


def _descent(w, x):
    return w - 0.01 * x.T @ (x @ w)


@case(_LEAKED)
def a_history_of_losses():
    history = []

    @jax.jit
    def step(w, x):
        history.append(jnp.mean((x @ w) ** 2))  # expect: leaked-tracer
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def a_dictionary_of_metrics():
    @jax.jit
    def step(w, x):
        _LOG["norm"] = jnp.sum(w**2)  # expect: leaked-tracer
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def an_attribute_with_activations():
    class Recorder:
        def __init__(self):
            self.activations = None

    recorder = Recorder()

    @eqx.filter_jit
    def step(w, x):
        h = x @ w
        recorder.activations = h  # expect: leaked-tracer
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def a_variable_of_the_module():
    @jax.jit
    def step(w, x):
        global _LAST
        _LAST = x @ w  # expect: leaked-tracer
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def a_nonlocal_variable():
    last = None

    @jax.jit
    def step(w, x):
        nonlocal last
        last = jnp.mean(x)  # expect: leaked-tracer
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def in_the_body_of_a_scan():
    rows = []

    @jax.jit
    def step(w, x):
        def body(w, row):
            rows.append(row)  # expect: leaked-tracer
            return w - 0.01 * row[:, None] * (row @ w), None

        return jax.lax.scan(body, w, x)[0]

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def in_a_method():
    class Trainer:
        def __init__(self):
            self.loss = None

        def step(self, w, x):
            self.loss = jnp.mean((x @ w) ** 2)  # expect: leaked-tracer
            return _descent(w, x)

    return jax.jit(Trainer().step), jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def in_the_loss_of_a_treadle_step():
    seen = {}

    def loss_fn(model, example, key):
        x, y = example
        logits = model(x, key)
        seen.update(logits=logits)  # expect: leaked-tracer
        return cross_entropy(logits, y)

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    return step, step.init(net()[0], key=jax.random.key(0)), batch()


# -- right ----------------------------------------------------------------------------------------


@case(_LEAKED)
def right_metrics():
    @jax.jit
    def step(w, x):
        return _descent(w, x), {"loss": jnp.mean((x @ w) ** 2)}

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def right_activations_of_a_scan():
    @jax.jit
    def step(w, x):
        def body(w, row):
            return w - 0.01 * row[:, None] * (row @ w), row @ w

        return jax.lax.scan(body, w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def right_stored_outside():
    history = []

    @jax.jit
    def inner(w, x):
        return _descent(w, x), jnp.mean((x @ w) ** 2)

    inner(jnp.ones((4, 2)), batch()[0])
    history.append(1.0)
    return inner, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def right_aux_of_treadle():
    def loss_fn(model, example, key):
        x, y = example
        logits = model(x, key)
        return cross_entropy(logits, y), {"largest": jnp.max(logits)}

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    return step, step.init(net()[0], key=jax.random.key(0)), batch()
