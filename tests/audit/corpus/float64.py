"""Steps where 64-bit types are on, some of which compute in them by mistake."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import treadle

from . import case

_DOUBLE = "float64"
_SINGLE = jnp.float32


def _ones(*shape):
    return jnp.ones(shape, _SINGLE)


def _weights():
    return {"w": _ones(4, 3)}


def _single(tree):
    return jax.tree.map(
        lambda leaf: leaf.astype(_SINGLE) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def _labels():
    return jnp.zeros(6, jnp.int32)


def _cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _descent(loss_fn):
    @jax.jit
    def step(p, *args):
        loss, grads = jax.value_and_grad(loss_fn)(p, *args)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), loss

    return step


@case(_DOUBLE, x64=True)
def a_number_of_numpy():
    def loss_fn(p, x):
        x = x * np.float64(0.5)  # expect: float64
        return jnp.mean((x @ p["w"]) ** 2)

    return _descent(loss_fn), _weights(), _ones(6, 4)


@case(_DOUBLE, x64=True)
def positions_of_pythons_float():
    def loss_fn(p, x):
        positions = jnp.arange(4, dtype=float)  # expect: float64
        return jnp.mean(((x + positions) @ p["w"]) ** 2)

    return _descent(loss_fn), _weights(), _ones(6, 4)


@case(_DOUBLE, x64=True)
def a_cast_to_pythons_float():
    def loss_fn(p, x):
        x = x.astype(float)  # expect: float64
        return jnp.mean(((x + p["w"][:, 0]) @ p["w"]) ** 2)

    return _descent(loss_fn), _weights(), jnp.ones((6, 4), jnp.uint8)


@case(_DOUBLE, x64=True)
def a_table_of_numpy_closed_over():
    table = np.sin(np.arange(4) / 10)

    def loss_fn(p, x):
        hidden = x + table  # expect: float64
        return jnp.mean((hidden @ p["w"]) ** 2)

    return _descent(loss_fn), _weights(), _ones(6, 4)


@case(_DOUBLE, x64=True)
def a_linspace():
    def loss_fn(p, x):
        times = jnp.linspace(0.0, 1.0, 4)  # expect: float64
        return jnp.mean(((x * times) @ p["w"]) ** 2)

    return _descent(loss_fn), _weights(), _ones(6, 4)


@case(_DOUBLE, x64=True)
def noise_by_default():
    @eqx.filter_jit
    def step(model, x, y, key):
        def loss_fn(model):
            noise = jax.random.normal(key, x.shape)  # expect: float64
            return _cross_entropy(jax.vmap(model)(x + 0.1 * noise), y)

        grads = eqx.filter_grad(loss_fn)(model)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads))

    model = _single(eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0)))
    return step, model, _ones(6, 4), _labels(), jax.random.key(1)


@case(_DOUBLE, x64=True)
def a_batch_as_numpy_made_it():
    def loss_fn(p, x):
        return jnp.mean((x @ p["w"]) ** 2)

    @jax.jit  # expect: float64
    def step(p, x):
        grads = jax.grad(loss_fn)(p, x)
        return jax.tree.map(lambda p, g: (p - 0.1 * g).astype(p.dtype), p, grads)

    return step, _weights(), np.random.default_rng(0).normal(size=(6, 4))


@case(_DOUBLE, x64=True)
def one_hot_labels():
    def loss_fn(p, x, y):
        targets = jax.nn.one_hot(y, 3)  # expect: float64
        return jnp.mean((x @ p["w"] - targets) ** 2)

    return _descent(loss_fn), _weights(), _ones(6, 4), _labels()


@case(_DOUBLE, x64=True)
def a_rate_from_whole_numbers():
    @jax.jit
    def step(p, count, x):
        grads = jax.grad(lambda p: jnp.mean((x @ p["w"]) ** 2))(p)
        rate = 0.1 * jnp.minimum(1.0, count / 100)  # expect: float64
        new = jax.tree.map(lambda p, g: p - (rate * g).astype(p.dtype), p, grads)
        return new, count + 1

    return step, _weights(), jnp.zeros((), jnp.int64), _ones(6, 4)


@case(_DOUBLE, x64=True)
def complex_numbers_of_128_bits():
    def loss_fn(p, x):
        waves = jnp.fft.fft(x.astype(complex))  # expect: float64
        return jnp.mean(jnp.abs(waves).astype(_SINGLE) @ p["w"])

    return _descent(loss_fn), _weights(), _ones(6, 4)


@case(_DOUBLE, x64=True)
def a_scale_in_a_scan_in_a_treadle_step():
    def loss_fn(model, example, key):
        def body(carry, x):
            carry = carry + x * np.float64(0.1)  # expect: float64
            return carry.astype(_SINGLE), None

        total, _ = jax.lax.scan(body, jnp.zeros(4, _SINGLE), example)
        return jnp.sum(model(total) ** 2)

    step = treadle.TrainStep(loss_fn, optax.sgd(1e-3))
    model = _single(eqx.nn.Linear(4, 3, key=jax.random.key(0)))
    return step, step.init(model, key=jax.random.key(1)), _ones(2, 5, 4)


@case(_DOUBLE, needs="flax", x64=True)
def flax_a_scale_of_ones():
    import flax.linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(8)(x))
            x = x * jnp.ones(8)  # expect: float64
            return nn.Dense(3)(x)

    model, x = Model(), _ones(6, 4)

    def loss_fn(p, x, y):
        return _cross_entropy(model.apply(p, x), y)

    return _descent(loss_fn), model.init(jax.random.key(0), x), x, _labels()


# -- right ----------------------------------------------------------------------------------------


@case(_DOUBLE, x64=True)
def right_float32_throughout():
    rate = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))

    class Net(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.LayerNorm
        dropout: eqx.nn.Dropout
        last: eqx.nn.Linear

        def __call__(self, x, key):
            x = self.norm(jax.nn.gelu(self.first(x)))
            return self.last(self.dropout(x, key=key)) * 2.0 / jnp.sqrt(4.0)

    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        def loss_fn(model):
            logits = jax.vmap(model)(x, jax.random.split(key, x.shape[0]))
            return _cross_entropy(logits, y), jnp.mean(jnp.argmax(logits, -1) == y)

        (loss, accuracy), grads = eqx.filter_value_and_grad(loss_fn, has_aux=True)(model)
        updates, opt_state = optimizer.update(grads, opt_state, model)
        return eqx.apply_updates(model, updates), opt_state, loss, accuracy

    one, two = jax.random.split(jax.random.key(0))
    layers = eqx.nn.Linear(4, 8, key=one), eqx.nn.LayerNorm(8)
    model = _single(Net(*layers, eqx.nn.Dropout(0.5), eqx.nn.Linear(8, 3, key=two)))
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    return step, model, opt_state, _ones(6, 4), _labels(), jax.random.key(1)


@case(_DOUBLE, x64=True)
def right_float64_throughout():
    table = np.linspace(0, 1, 4)

    def loss_fn(p, x, key):
        x = x + table + 0.1 * jax.random.normal(key, x.shape)
        return jnp.mean((x @ p["w"]) ** 2)

    p = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), _weights())
    return _descent(loss_fn), p, jnp.ones((6, 4)), jax.random.key(0)


@case(_DOUBLE, x64=True)
def right_float64_state_and_a_batch_in_float32():
    optimizer = optax.lbfgs()

    def loss_fn(p, x):
        return jnp.mean((x @ p["w"]) ** 2)

    @jax.jit
    def step(p, opt_state, x):
        value, grads = jax.value_and_grad(loss_fn)(p, x)
        updates, opt_state = optimizer.update(
            grads, opt_state, p, value=value, grad=grads, value_fn=lambda p: loss_fn(p, x)
        )
        return optax.apply_updates(p, updates), value

    p = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), _weights())
    return step, p, optimizer.init(p), _ones(6, 4)


@case(_DOUBLE, x64=True)
def right_dtypes_that_are_named():
    def loss_fn(p, x, y, key):
        positions = jnp.arange(4, dtype=x.dtype) + jnp.linspace(0, 1, 4, dtype=x.dtype)
        noise = jax.random.normal(key, x.shape, x.dtype)
        hidden = x + np.float32(0.1) * noise + positions
        return jnp.mean((hidden @ p["w"] - jax.nn.one_hot(y, 3, dtype=x.dtype)) ** 2)

    return _descent(loss_fn), _weights(), _ones(6, 4), _labels(), jax.random.key(0)


@case(_DOUBLE, x64=True)
def right_numbers_of_python_and_whole_numbers():
    def loss_fn(p, x):
        decay = jnp.exp(-0.5 * jnp.arange(4))
        return jnp.mean(((x * decay) @ p["w"]) ** 2)

    return _descent(loss_fn), _weights(), _ones(6, 4)


@case(_DOUBLE, x64=True)
def right_a_batch_that_is_cast_first():
    def loss_fn(p, x):
        return jnp.mean((x.astype(_SINGLE) @ p["w"]) ** 2)

    return _descent(loss_fn), _weights(), np.random.default_rng(0).normal(size=(6, 4))


@case(_DOUBLE, x64=True)
def right_a_total_kept_in_float64():
    def loss_fn(p, x):
        return jnp.mean((x @ p["w"]) ** 2)

    @jax.jit
    def step(p, total, x):
        loss, grads = jax.value_and_grad(loss_fn)(p, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), total + loss

    return step, _weights(), jnp.zeros((), jnp.float64), _ones(6, 4)


@case(_DOUBLE, x64=True)
def right_a_treadle_step_in_float32():
    def loss_fn(model, example, key):
        x, y = example
        return _cross_entropy(model(x), y)

    step = treadle.TrainStep(
        loss_fn, optax.adamw(optax.cosine_decay_schedule(1e-3, 100)), ema=0.99, accumulate=2
    )
    model = _single(eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0)))
    return step, step.init(model, key=jax.random.key(1)), (_ones(6, 4), _labels())


@case(_DOUBLE)
def right_doubles_of_numpy_where_they_are_off():
    table = np.linspace(0, 1, 4)

    def loss_fn(p, x):
        return jnp.mean(((x + table) / np.sqrt(4) @ p["w"]) ** 2)

    return _descent(loss_fn), _weights(), _ones(6, 4)
