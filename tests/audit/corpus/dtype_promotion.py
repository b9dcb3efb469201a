"""Low precision that is widened silently, and precision that is chosen."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import treadle

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, params

_WIDE = "dtype-promotion"
_LOW = jnp.bfloat16


def _cast(tree, dtype=_LOW):
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def _square():
    return jnp.ones((4, 4), _LOW)


def _descent(loss_fn):
    """A step of gradient descent, the parameters in the dtype that they have."""

    @eqx.filter_jit
    def step(p, *args):
        loss, grads = eqx.filter_value_and_grad(loss_fn)(p, *args)
        new = jax.tree.map(
            lambda p, g: p - jnp.asarray(0.1, p.dtype) * g if eqx.is_inexact_array(p) else p,
            p,
            grads,
        )
        return new, loss

    return step


@case(_WIDE)
def activations_meet_weights_in_float32():
    def loss_fn(p, x, y):
        hidden = jax.nn.relu(x @ p["w1"] + p["b1"])  # expect: dtype-promotion
        return cross_entropy(hidden @ p["w2"] + p["b2"], y)

    x, y = batch()
    return _descent(loss_fn), params(), x.astype(_LOW), y


@case(_WIDE)
def a_batch_in_float32_for_a_model_in_bfloat16():
    model = _cast(eqx.nn.MLP(4, 3, 8, 2, key=jax.random.key(0)))

    def loss_fn(model, x, y):
        return cross_entropy(jax.vmap(model)(x), y)  # expect: dtype-promotion

    return _descent(loss_fn), model, *batch()


@case(_WIDE)
def position_embeddings_in_float32():
    class Net(eqx.Module):
        first: eqx.nn.Linear
        last: eqx.nn.Linear
        positions: jax.Array

        def __call__(self, x):
            x = jax.vmap(self.first)(x)
            x = x + self.positions  # expect: dtype-promotion
            return jax.vmap(self.last)(x)

    one, two = jax.random.split(jax.random.key(0))
    layers = _cast((eqx.nn.Linear(4, 4, key=one), eqx.nn.Linear(4, 3, key=two)))
    model = Net(*layers, jnp.ones((5, 4)))

    def loss_fn(model, x):
        return jnp.mean(jax.vmap(model)(x).astype(jnp.float32) ** 2)

    return _descent(loss_fn), model, jnp.ones((2, 5, 4), _LOW)


@case(_WIDE)
def scores_scaled_by_a_number_of_numpy():
    def loss_fn(p, x):
        q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
        scores = q @ k.T / np.sqrt(q.shape[-1])  # expect: dtype-promotion
        return jnp.mean(jax.nn.softmax(scores) @ v)

    p = {name: _square() for name in "qkv"}
    return _descent(loss_fn), p, jnp.ones((5, 4), _LOW)


@case(_WIDE)
def a_mask_in_float32_added_to_scores():
    def loss_fn(p, x, mask):
        scores = x @ p["w"] @ x.T
        scores = scores + mask  # expect: dtype-promotion
        return jnp.mean(jax.nn.softmax(scores) @ x)

    return _descent(loss_fn), {"w": _square()}, jnp.ones((5, 4), _LOW), jnp.zeros((5, 5))


@case(_WIDE)
def a_softmax_in_float32_that_is_not_cast_back():
    def loss_fn(p, x):
        weights = jax.nn.softmax((x @ x.T).astype(jnp.float32))
        out = weights @ (x @ p["w"])  # expect: dtype-promotion
        return jnp.mean(out**2)

    return _descent(loss_fn), {"w": _square()}, jnp.ones((5, 4), _LOW)


@case(_WIDE)
def a_norm_that_is_not_cast_back():
    def loss_fn(p, x):
        square = jnp.mean(jnp.square(x.astype(jnp.float32)), -1, keepdims=True)
        x = x * jax.lax.rsqrt(square + 1e-6)  # expect: dtype-promotion
        return jnp.mean((x @ p["w"]) ** 2)

    return _descent(loss_fn), {"w": _square()}, jnp.ones((5, 4), _LOW)


@case(_WIDE)
def float16_in_an_einsum_with_float32():
    def loss_fn(p, x):
        out = jnp.einsum("bi,ij->bj", x, p["w"])  # expect: dtype-promotion
        return jnp.mean(out**2)

    return _descent(loss_fn), {"w": jnp.ones((4, 4))}, batch()[0].astype(jnp.float16)


@case(_WIDE)
def a_product_of_mixed_dtypes_by_lax():
    def loss_fn(p, x):
        out = jax.lax.dot(x, p["w"])  # expect: dtype-promotion
        return jnp.mean(out**2)

    return _descent(loss_fn), {"w": _square()}, batch()[0]


@case(_WIDE)
def sums_in_float32_that_go_on_as_such():
    def loss_fn(p, x):
        hidden = jax.lax.dot(x, p["w"], preferred_element_type=jnp.float32)
        return jnp.mean((jnp.tanh(hidden) @ p["w"]) ** 2)  # expect: dtype-promotion

    return _descent(loss_fn), {"w": _square()}, jnp.ones((5, 4), _LOW)


@case(_WIDE)
def float16_meets_bfloat16():
    def loss_fn(p, x):
        return jnp.mean(jnp.matmul(x, p["w"]) ** 2)  # expect: dtype-promotion

    return _descent(loss_fn), {"w": _square()}, batch()[0].astype(jnp.float16)


@case(_WIDE)
def a_scaled_norm_that_is_not_cast_back():
    def loss_fn(p, x):
        h = x.astype(jnp.float32)
        h = (h - h.mean(-1, keepdims=True)) / (h.std(-1, keepdims=True) + 1e-5) * p["scale"]
        return jnp.mean((h @ p["w"]) ** 2)  # expect: dtype-promotion

    p = {"w": _square(), "scale": jnp.ones(4, _LOW)}
    return _descent(loss_fn), p, jnp.ones((5, 4), _LOW)


@case(_WIDE)
def noise_drawn_in_float32():
    def loss_fn(p, x, key):
        noisy = x + 0.1 * jax.random.normal(key, x.shape)  # expect: dtype-promotion
        return jnp.mean((noisy @ p["w"]) ** 2)

    return _descent(loss_fn), {"w": _square()}, jnp.ones((5, 4), _LOW), jax.random.key(0)


@case(_WIDE)
def a_scale_inside_of_a_compiled_layer():
    @jax.jit
    def layer(w, x, scale):
        return jnp.tanh((x * scale) @ w)  # expect: dtype-promotion

    def loss_fn(p, x):
        for w in p["layers"]:
            x = layer(w, x, p["scale"])
        return jnp.mean(x**2)

    p = {"layers": [_square()] * 3, "scale": jnp.ones(())}
    return _descent(loss_fn), p, jnp.ones((5, 4), _LOW)


@case(_WIDE)
def a_teacher_in_float32_in_a_treadle_step():
    student = _cast(eqx.nn.Linear(4, 4, key=jax.random.key(0)))
    teacher = eqx.nn.Linear(4, 4, key=jax.random.key(1))

    def loss_fn(models, example, key):
        student, teacher = models
        hidden = jax.nn.relu(student(example))
        return jnp.sum(teacher(hidden) ** 2)  # expect: dtype-promotion

    step = treadle.TrainStep(loss_fn, optax.sgd(1e-3))
    state = step.init((student, teacher), key=jax.random.key(2))
    return step, state, batch()[0].astype(_LOW)


@case(_WIDE, needs="flax")
def flax_a_last_layer_without_a_dtype():
    import flax.linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(8, dtype=_LOW)(x))
            return nn.Dense(3)(x)  # expect: dtype-promotion

    model = Model()
    x, y = batch()

    @jax.jit
    def step(p, x, y):
        grads = jax.grad(lambda p: cross_entropy(model.apply(p, x), y))(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)

    return step, model.init(jax.random.key(0), x), x, y


@case(_WIDE, needs="haiku")
def haiku_a_batch_in_bfloat16():
    import haiku as hk

    def forward(x):
        return hk.Linear(3)(jax.nn.relu(x))  # expect: dtype-promotion

    model = hk.without_apply_rng(hk.transform(forward))
    x, y = batch()

    @jax.jit
    def step(p, x, y):
        grads = jax.grad(lambda p: cross_entropy(model.apply(p, x), y))(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)

    return step, model.init(jax.random.key(0), x), x.astype(_LOW), y


# -- right ----------------------------------------------------------------------------------------


@case(_WIDE)
def right_treadle_casts():
    model = eqx.nn.MLP(4, 3, 8, 2, key=jax.random.key(0))

    def loss_fn(model, example, key):
        x, y = example
        return cross_entropy(model(x), y)

    step = treadle.TrainStep(loss_fn, OPTIMIZER, precision="bf16")
    return step, step.init(model, key=jax.random.key(1)), batch()


@case(_WIDE)
def right_master_weights_and_a_scaled_loss():
    @jax.jit
    def step(master, opt_state, x, y, scale):
        half = _cast(master, jnp.float16)

        def loss_fn(p):
            hidden = jax.nn.relu(x.astype(jnp.float16) @ p["w1"] + p["b1"])
            logits = hidden @ p["w2"] + p["b2"]
            return cross_entropy(logits.astype(jnp.float32), y) * scale

        grads = jax.tree.map(lambda g: g.astype(jnp.float32) / scale, jax.grad(loss_fn)(half))
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(master, updates), opt_state

    p = params()
    return step, p, OPTIMIZER.init(p), *batch(), jnp.float32(1024)


@case(_WIDE)
def right_attention_that_casts_back():
    def loss_fn(p, x):
        q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
        scores = jax.lax.dot(q, k.T, preferred_element_type=jnp.float32) / np.sqrt(4)
        scores = jnp.where(jnp.tri(5, dtype=bool), scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores).astype(v.dtype)
        return jnp.mean((weights @ v).astype(jnp.float32))

    p = {name: _square() for name in "qkv"}
    return _descent(loss_fn), p, jnp.ones((5, 4), _LOW)


@case(_WIDE)
def right_a_norm_in_float32():
    def loss_fn(p, x):
        wide = x.astype(jnp.float32)
        wide = (wide - wide.mean(-1, keepdims=True)) / (wide.std(-1, keepdims=True) + 1e-5)
        x = (wide * p["scale"] + p["shift"]).astype(x.dtype)
        return jnp.mean(x @ p["w"])

    p = {"w": _square(), "scale": jnp.ones(4, _LOW), "shift": jnp.zeros(4)}
    return _descent(loss_fn), p, jnp.ones((5, 4), _LOW)


@case(_WIDE)
def right_layers_of_equinox_in_bfloat16():
    keys = jax.random.split(jax.random.key(0), 4)
    model = _cast(
        eqx.nn.Sequential(
            [
                eqx.nn.Linear(4, 4, key=keys[0]),
                eqx.nn.LayerNorm(4),
                eqx.nn.Dropout(0.5),
                eqx.nn.RMSNorm(4),
                eqx.nn.Linear(4, 3, key=keys[1]),
            ]
        )
    )
    optimizer = optax.adamw(1e-3)

    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        def loss_fn(model):
            each = jax.random.split(key, x.shape[0])
            logits = jax.vmap(lambda x, key: model(x, key=key))(x, each)
            return cross_entropy(logits.astype(jnp.float32), y)

        grads = eqx.filter_grad(loss_fn)(model)
        updates, opt_state = optimizer.update(grads, opt_state, model)
        return eqx.apply_updates(model, updates), opt_state

    x, y = batch()
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    return step, model, opt_state, x.astype(_LOW), y, jax.random.key(1)


@case(_WIDE)
def right_targets_in_float32():
    def loss_fn(p, x, y):
        return jnp.mean((x @ p["w"] - y) ** 2)

    x = batch()[0]
    return _descent(loss_fn), {"w": _square()}, x.astype(_LOW), x


@case(_WIDE)
def right_a_cast_for_the_last_layer():
    def loss_fn(p, x):
        hidden = jnp.tanh(x @ p["w"]) * 2.0 / jnp.sqrt(4.0)
        return jnp.mean(hidden.astype(jnp.float32) @ p["w"])

    return _descent(loss_fn), {"w": _square()}, jnp.ones((5, 4), _LOW)


@case(_WIDE)
def right_averages_and_norms_in_float32():
    @jax.jit
    def step(p, average, x):
        grads = jax.grad(lambda p: jnp.mean((x @ p["w"]).astype(jnp.float32)))(p)
        p = jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)
        average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, average, p)
        norm = jnp.sqrt(sum(jnp.sum(g**2, dtype=jnp.float32) for g in jax.tree.leaves(grads)))
        return p, average, norm, jnp.vdot(average["w"], p["w"])

    return step, {"w": _square()}, {"w": jnp.ones((4, 4))}, jnp.ones((5, 4), _LOW)


@case(_WIDE)
def right_whole_numbers_that_are_scaled():
    def loss_fn(p, x, quantised):
        return jnp.mean(x @ (quantised * p["scale"]))

    return _descent(loss_fn), {"scale": jnp.ones(4)}, batch()[0], jnp.ones((4, 4), jnp.int8)


@case(_WIDE, needs="flax")
def right_flax_with_dtypes():
    import flax.linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(8, dtype=_LOW)(x))
            x = nn.LayerNorm(dtype=_LOW)(x)
            return nn.Dense(3, dtype=jnp.float32)(x)

    model = Model()
    x, y = batch()

    @jax.jit
    def step(p, x, y):
        grads = jax.grad(lambda p: cross_entropy(model.apply(p, x), y))(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)

    return step, model.init(jax.random.key(0), x), x, y
