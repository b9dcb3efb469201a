"""Loops of Python over data, and loops of Python that are none."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import treadle

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, params

_LOOP = "unrolled-loop"


class Stack(eqx.Module):
    """Layers in a list."""

    layers: list

    def __init__(self, depth, key, width=4):
        keys = jax.random.split(key, depth)
        self.layers = [eqx.nn.Linear(width, width, key=each) for each in keys]

    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x


def _logits(p, x):
    return jax.nn.relu(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


def _descent(p, grads):
    return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)


@case(_LOOP)
def a_model_called_on_each_example():
    optimizer = optax.adam(1e-3)

    def loss_fn(model, x, y):
        losses = []
        for i in range(x.shape[0]):
            logits = model(x[i])  # expect: unrolled-loop
            losses.append(cross_entropy(logits, y[i]))
        return jnp.mean(jnp.stack(losses))

    @eqx.filter_jit
    def step(model, opt_state, x, y):
        loss, grads = eqx.filter_value_and_grad(loss_fn)(model, x, y)
        updates, opt_state = optimizer.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, loss

    model = Stack(3, jax.random.key(0))
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    return step, model, opt_state, *batch(8)


@case(_LOOP)
def predictions_in_a_comprehension():
    @eqx.filter_jit
    def predict(model, x):
        return jnp.stack([model(row) for row in x])  # expect: unrolled-loop

    return predict, Stack(2, jax.random.key(0)), batch(8)[0]


@case(_LOOP)
def a_recurrent_net_over_time():
    class Recurrent(eqx.Module):
        cell: eqx.nn.GRUCell
        head: eqx.nn.Linear

        def advance(self, h, x):
            return self.cell(x, h)

        def __call__(self, xs):
            h = jnp.zeros(5)
            for t in range(xs.shape[0]):
                h = self.advance(h, xs[t])  # expect: unrolled-loop
            return self.head(h)

    one, two = jax.random.split(jax.random.key(0))
    model = Recurrent(eqx.nn.GRUCell(4, 5, key=one), eqx.nn.Linear(5, 2, key=two))

    def loss_fn(model, example, key):
        return jnp.sum(model(example) ** 2)

    step = treadle.TrainStep(loss_fn, optax.adam(1e-3))
    return step, step.init(model, key=jax.random.key(1)), jnp.ones((3, 9, 4))


@case(_LOOP)
def microbatches_of_one_batch():
    def loss_fn(p, x, y):
        return cross_entropy(_logits(p, x), y)

    @jax.jit
    def step(p, opt_state, x, y):
        total = jax.tree.map(jnp.zeros_like, p)
        for i in range(8):
            rows = slice(2 * i, 2 * i + 2)
            grads = jax.grad(loss_fn)(p, x[rows], y[rows])  # expect: unrolled-loop
            total = jax.tree.map(jnp.add, total, grads)
        updates, opt_state = OPTIMIZER.update(jax.tree.map(lambda g: g / 8, total), opt_state)
        return optax.apply_updates(p, updates), opt_state

    return step, params(), OPTIMIZER.init(params()), *batch(16)


@case(_LOOP)
def a_fixed_point_of_shared_weights():
    @jax.jit
    def step(w, x, y):
        def loss_fn(w):
            z = jnp.zeros_like(x)
            for _ in range(10):
                z = jnp.tanh(z @ w + x)  # expect: unrolled-loop
            return jnp.mean((z - y) ** 2)

        return w - 0.1 * jax.grad(loss_fn)(w)

    return step, jnp.ones((4, 4)), batch()[0], batch()[0]


@case(_LOOP)
def inner_steps_of_maml():
    def inner(p, x, y):
        return cross_entropy(_logits(p, x), y)

    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(p, x, y):
        def outer(p):
            fast, state = p, optimizer.init(p)
            for _ in range(8):
                grads = jax.grad(inner)(fast, x, y)  # expect: unrolled-loop
                updates, state = optimizer.update(grads, state)
                fast = optax.apply_updates(fast, updates)
            return inner(fast, x, y)

        return _descent(p, jax.grad(outer)(p))

    return step, params(), *batch()


@case(_LOOP)
def samples_with_a_key_each():
    @eqx.filter_jit
    def step(model, x, key):
        total = 0.0
        for k in jax.random.split(key, 8):
            noisy = x + jax.random.normal(k, x.shape)
            total = total + jnp.mean(jax.vmap(model)(noisy) ** 2)  # expect: unrolled-loop
        return total / 8

    return step, Stack(2, jax.random.key(0)), batch()[0], jax.random.key(1)


@case(_LOOP)
def a_sampler_of_ten_steps():
    @eqx.filter_jit
    def sample(model, x, key):
        for t in range(10):
            key, sub = jax.random.split(key)
            noise = jax.random.normal(sub, x.shape)
            x = x - 0.1 * jax.vmap(model)(x * (1 - t / 10))  # expect: unrolled-loop
            x = x + 0.01 * noise
        return x

    return sample, Stack(2, jax.random.key(0)), batch()[0], jax.random.key(1)


@case(_LOOP)
def a_compiled_function_for_each_row():
    @jax.jit
    def forward(p, row):
        return _logits(p, row)

    @jax.jit
    def evaluate(p, x):
        return sum(jnp.max(forward(p, x[i])) for i in range(8))  # expect: unrolled-loop

    return evaluate, params(), batch(8)[0]


@case(_LOOP)
def checkpointed_calls_in_the_loss():
    @jax.checkpoint
    def block(model, row):
        return model(row)

    def loss_fn(model, x):
        total = 0.0
        for i in range(8):
            total += jnp.sum(block(model, x[i]) ** 2)  # expect: unrolled-loop
        return total

    @eqx.filter_jit
    def step(model, x):
        grads = eqx.filter_grad(loss_fn)(model, x)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads))

    return step, Stack(2, jax.random.key(0)), batch(8)[0]


@case(_LOOP)
def folded_by_reduce():
    @jax.jit
    def run(w, xs):
        h0 = jnp.zeros(4)
        return functools.reduce(lambda h, x: jnp.tanh(w @ h + x), xs, h0)  # expect: unrolled-loop

    return run, jnp.ones((4, 4)), batch(8)[0]


@case(_LOOP)
def discounted_returns():
    @jax.jit
    def step(logits, rewards):
        value, found = 0.0, []
        for t in reversed(range(rewards.shape[0])):
            value = rewards[t] + 0.9 * value  # expect: unrolled-loop
            found.append(value)
        return jax.grad(lambda p: jnp.sum(jax.nn.softmax(p) * jnp.stack(found[::-1])))(logits)

    return step, jnp.ones(12), jnp.ones(12)


@case(_LOOP)
def layers_in_one_stacked_array():
    @jax.jit
    def forward(layers, x):
        for i in range(8):
            x = jax.nn.relu(x @ layers["w"][i] + layers["b"][i])  # expect: unrolled-loop
        return x

    return forward, {"w": jnp.ones((8, 4, 4)), "b": jnp.ones((8, 4))}, batch()[0]


@case(_LOOP, needs="flax")
def flax_a_cell_over_time():
    import flax.linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, xs):
            cell = nn.GRUCell(features=5)
            carry = cell.initialize_carry(jax.random.key(0), xs[:, 0].shape)
            for t in range(xs.shape[1]):
                carry, out = cell(carry, xs[:, t])  # expect: unrolled-loop
            return nn.Dense(3)(out)

    model, xs = Model(), jnp.ones((2, 9, 4))
    variables = model.init(jax.random.key(0), xs)

    @jax.jit
    def step(p, xs):
        return _descent(p, jax.grad(lambda p: jnp.mean(model.apply(p, xs) ** 2))(p))

    return step, variables, xs


@case(_LOOP, needs="haiku")
def haiku_a_net_for_each_example():
    import haiku as hk

    def forward(x):
        net = hk.nets.MLP([8, 3])
        return jnp.stack([net(x[i]) for i in range(x.shape[0])])  # expect: unrolled-loop

    model = hk.without_apply_rng(hk.transform(forward))
    x, y = batch(8)

    @jax.jit
    def step(p, x, y):
        return _descent(p, jax.grad(lambda p: cross_entropy(model.apply(p, x), y))(p))

    return step, model.init(jax.random.key(0), x), x, y


# -- right ----------------------------------------------------------------------------------------


@case(_LOOP)
def right_24_listed_layers():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))

    @eqx.filter_jit
    def step(model, opt_state, x):
        loss, grads = eqx.filter_value_and_grad(lambda m: jnp.mean(jax.vmap(m)(x)))(model)
        norms = [jnp.linalg.norm(leaf) for leaf in jax.tree.leaves(grads)]
        updates, opt_state = optimizer.update(grads, opt_state, model)
        return eqx.apply_updates(model, updates), opt_state, loss, norms

    model = Stack(24, jax.random.key(0))
    return step, model, optimizer.init(eqx.filter(model, eqx.is_inexact_array)), batch()[0]


@case(_LOOP)
def right_listed_layers_checkpointed_and_compiled():
    @jax.jit
    def layer(p, x):
        return jnp.tanh(x @ p["w"] + p["b"])

    @jax.jit
    def step(layers, x):
        def loss_fn(layers):
            h = x
            for p in layers:
                h = jax.checkpoint(layer)(p, h)
            return jnp.sum(h)

        grads = jax.grad(loss_fn)(layers)
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))
        return _descent(layers, jax.tree.map(lambda g: g / norm, grads))

    return step, [{"w": jnp.ones((4, 4)), "b": jnp.ones(4)} for _ in range(12)], batch()[0]


@case(_LOOP)
def right_seven_rows():
    @eqx.filter_jit
    def step(model, x):
        total = 0.0
        for i in range(7):
            total += jnp.sum(model(x[i]))
        return total

    return step, Stack(9, jax.random.key(0)), batch(8)[0]


@case(_LOOP)
def right_scan_and_fori_loop():
    @eqx.filter_jit
    def step(model, x):
        def body(h, row):
            h = model(h) + row
            return h, h

        h, hs = jax.lax.scan(body, jnp.zeros(4), x, unroll=8)
        h = jax.lax.fori_loop(0, 8, lambda _, h: model(h), h, unroll=True)
        return h, jax.lax.map(model, hs)

    return step, Stack(2, jax.random.key(0)), batch(8)[0]


@case(_LOOP)
def right_eight_heads():
    @eqx.filter_jit
    def step(heads, x):
        def loss_fn(heads):
            return sum(jnp.mean(jax.vmap(head)(x) ** 2) for head in heads)

        grads = eqx.filter_grad(loss_fn)(heads)
        return eqx.apply_updates(heads, jax.tree.map(lambda g: -0.1 * g, grads))

    keys = jax.random.split(jax.random.key(0), 8)
    return step, [eqx.nn.Linear(4, 4, key=key) for key in keys], batch()[0]


@case(_LOOP)
def right_layers_of_two_kinds():
    @jax.jit
    def forward(layers, x):
        for i, layer in enumerate(layers):
            if i % 2:
                x = x @ layer
            else:
                x = x * layer
            x = jnp.tanh(x)
        return x

    return forward, [jnp.ones(4) if i % 2 == 0 else jnp.ones((4, 4)) for i in range(10)], batch()[0]


@case(_LOOP)
def right_an_optimizer_by_hand():
    @jax.jit
    def step(p, m, v, count, x):
        grads = jax.grad(lambda p: sum(jnp.mean((x @ w) ** 2) for w in p.values()))(p)
        count = count + 1
        new, means, squares = {}, {}, {}
        for name in p:
            means[name] = 0.9 * m[name] + 0.1 * grads[name]
            squares[name] = 0.99 * v[name] + 0.01 * grads[name] ** 2
            mean = means[name] / (1 - 0.9**count)
            new[name] = p[name] - 1e-3 * mean / jnp.sqrt(squares[name] / (1 - 0.99**count) + 1e-8)
        return new, means, squares, count

    p = {f"w{i}": jnp.ones((4, 4)) for i in range(10)}
    zeros = jax.tree.map(jnp.zeros_like, p)
    return step, p, zeros, zeros, jnp.zeros(()), batch()[0]


@case(_LOOP)
def right_noise_for_each_leaf():
    @jax.jit
    def step(leaves, x, key):
        keys = jax.random.split(key, len(leaves))
        noise = [jax.random.normal(k, w.shape) for k, w in zip(keys, leaves, strict=True)]
        grads = jax.grad(lambda p: sum(jnp.mean((x @ w) ** 2) for w in p))(leaves)
        return [w - 0.1 * (g + n) for w, g, n in zip(leaves, grads, noise, strict=True)]

    return step, [jnp.ones((4, 4))] * 10, batch()[0], jax.random.key(0)


@case(_LOOP)
def right_layers_out_of_one_vector():
    flat, unravel = ravel_pytree([jnp.ones((4, 4))] * 10)

    @jax.jit
    def step(flat, x):
        def loss_fn(flat):
            h = x
            for w in unravel(flat):
                h = jax.nn.relu(h @ w)
            return jnp.sum(h)

        return flat - 0.1 * jax.grad(loss_fn)(flat)

    return step, flat, batch()[0]


@case(_LOOP)
def right_muon_and_its_five_turns():
    optimizer = optax.contrib.muon(1e-3)

    @jax.jit
    def step(p, opt_state, x):
        grads = jax.grad(lambda p: sum(jnp.mean((x @ w) ** 2) for w in p))(p)
        updates, opt_state = optimizer.update(grads, opt_state, p)
        tidy = []
        for w in optax.apply_updates(p, updates):
            z = w / jnp.linalg.norm(w)
            for _ in range(5):
                z = 1.5 * z - 0.5 * z @ z.T @ z
            tidy.append(z)
        return tidy, opt_state

    p = [jnp.ones((4, 4))] * 12
    return step, p, optimizer.init(p), batch()[0]


@case(_LOOP)
def right_treadle_accumulates():
    class Net(eqx.Module):
        conv: eqx.nn.Conv1d
        stack: Stack

        def __call__(self, x):
            return self.stack(self.conv(x[None])[0])

    def loss_fn(model, example, key):
        return jnp.sum(model(example) ** 2)

    step = treadle.TrainStep(loss_fn, optax.adam(1e-3), accumulate=8)
    one, two = jax.random.split(jax.random.key(0))
    model = Net(eqx.nn.Conv1d(1, 1, 3, padding=1, key=one), Stack(3, two))
    return step, step.init(model, key=jax.random.key(1)), batch(16)[0]


@case(_LOOP)
def right_patches_that_are_only_cut():
    @jax.jit
    def step(w, x):
        cut = jnp.concatenate([x[:, i : i + 4] for i in range(9)])
        return w - 0.1 * jax.grad(lambda w: jnp.mean((cut @ w) ** 2))(w)

    return step, jnp.ones((4, 2)), jnp.ones((3, 12))


@case(_LOOP)
def right_a_table_of_constants():
    @jax.jit
    def step(w, x):
        rows = [jnp.sin(jnp.arange(4) / 10000 ** (i / 8)) for i in range(8)]
        return jnp.tanh((x + jnp.stack(rows)) @ w)

    return step, jnp.ones((4, 4)), batch(8)[0]


@case(_LOOP, needs="flax")
def right_flax_twelve_layers():
    import flax.linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(12):
                x = nn.relu(nn.LayerNorm()(nn.Dense(4)(x)))
            return x

    model, x = Model(), batch()[0]

    @jax.jit
    def step(p, x):
        return _descent(p, jax.grad(lambda p: jnp.mean(model.apply(p, x) ** 2))(p))

    return step, model.init(jax.random.key(0), x), x


@case(_LOOP, needs="haiku")
def right_haiku_twelve_layers():
    import haiku as hk

    def forward(x):
        for _ in range(12):
            x = jax.nn.relu(hk.Linear(4)(x))
        return x

    model = hk.without_apply_rng(hk.transform(forward))
    x = batch()[0]

    @jax.jit
    def step(p, x):
        return _descent(p, jax.grad(lambda p: jnp.mean(model.apply(p, x) ** 2))(p))

    return step, model.init(jax.random.key(0), x), x


@case(_LOOP, needs="haiku")
def right_haiku_unrolls_a_core():
    import haiku as hk

    def forward(xs):
        core = hk.GRU(5)
        outs, _ = hk.static_unroll(core, xs, core.initial_state(2), time_major=False)
        return outs

    model = hk.without_apply_rng(hk.transform(forward))
    xs = jnp.ones((2, 9, 4))

    @jax.jit
    def step(p, xs):
        return _descent(p, jax.grad(lambda p: jnp.mean(model.apply(p, xs) ** 2))(p))

    return step, model.init(jax.random.key(0), xs), xs
