"""Steps that store intermediate values outside, and steps that return them."""

import contextvars
import functools
import types

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


@case(_LEAKED)
def a_dictionary_that_is_asked_first():
    known = {}

    def normalised(w):
        if "w" not in known:
            known["w"] = w / jnp.linalg.norm(w)  # expect: leaked-tracer
        return known["w"]

    @jax.jit
    def step(w, x):
        return w - 0.01 * x.T @ (x @ normalised(w))

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def a_cached_table():
    @functools.cache
    def table(size):
        return jnp.sin(jnp.arange(size, dtype=jnp.float32))

    @jax.jit
    def step(w, x):
        x = x + table(4)  # expect: leaked-tracer
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def a_hook_that_captures():
    hooks = []

    @jax.jit
    def step(w, x):
        loss = jnp.mean((x @ w) ** 2)
        hooks.append(lambda: loss)  # expect: leaked-tracer
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def an_activation_that_a_layer_keeps():
    kept = types.SimpleNamespace(hidden=None)

    class Layer(eqx.Module):
        weight: jax.Array

        def __call__(self, x):
            kept.hidden = x @ self.weight  # expect: leaked-tracer
            return kept.hidden

    @eqx.filter_jit
    def step(layer, x):
        grads = eqx.filter_grad(lambda layer: jnp.mean(layer(x) ** 2))(layer)
        return eqx.apply_updates(layer, jax.tree.map(lambda g: -0.01 * g, grads))

    return step, Layer(jnp.ones((4, 2))), batch()[0]


@case(_LEAKED)
def a_context_variable():
    last = contextvars.ContextVar("last", default=None)

    @jax.jit
    def step(w, x):
        last.set(jnp.mean((x @ w) ** 2))  # expect: leaked-tracer
        return _descent(w, x)

    return step, jnp.ones((4, 2)), batch()[0]


@case(_LEAKED)
def right_a_table_that_is_cached_outside_of_the_trace():
    @functools.cache
    def table(size):
        with jax.ensure_compile_time_eval():
            return jnp.sin(jnp.arange(size, dtype=jnp.float32))

    @jax.jit
    def step(w, x):
        return _descent(w, x + table(4))

    return step, jnp.ones((4, 2)), batch()[0]
