"""Keys that are consumed twice, and keys that are not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, net, params

_KEY = "key-reuse"


@case(_KEY)
def two_dropouts_of_one_key():
    class Twice(eqx.Module):
        linear: eqx.nn.Linear
        dropout: eqx.nn.Dropout

        def __call__(self, x, key):
            x = self.dropout(x, key=key)
            x = jax.nn.relu(self.linear(x))
            return self.dropout(x, key=key)  # expect: key-reuse

    model = Twice(eqx.nn.Linear(4, 3, key=jax.random.key(0)), eqx.nn.Dropout(0.5))

    def loss_fn(model, x, y, keys):
        return cross_entropy(jax.vmap(model)(x, keys), y)

    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        keys = jax.random.split(key, x.shape[0])
        loss, grads = eqx.filter_value_and_grad(loss_fn)(model, x, y, keys)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, loss

    opt_state = OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))
    return step, model, opt_state, *batch(), jax.random.key(1)


@case(_KEY)
def noise_on_inputs_and_labels_of_a_raw_key():
    @jax.jit
    def step(params, x, y, key):
        x = x + 0.1 * jax.random.normal(key, x.shape)
        flip = jax.random.bernoulli(key, 0.1, y.shape)  # expect: key-reuse
        y = jnp.where(flip, 0, y)

        def loss(p):
            hidden = jax.nn.relu(x @ p["w1"] + p["b1"])
            return cross_entropy(hidden @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    return step, params(), *batch(), jax.random.PRNGKey(0)


@case(_KEY)
def the_parent_after_the_split():
    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        noise_key, dropout_key = jax.random.split(key)
        x = x + jax.random.normal(noise_key, x.shape)

        def loss(model):
            keys = jax.random.split(key, x.shape[0])  # expect: key-reuse
            return cross_entropy(jax.vmap(model)(x, keys), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value, dropout_key

    return step, *net(), *batch(), jax.random.key(1)


@case(_KEY)
def captured_by_the_body_of_a_scan():
    @jax.jit
    def step(w, x, key):
        def body(w, row):
            noisy = row + jax.random.normal(key, row.shape)  # expect: key-reuse
            grad = jax.grad(lambda w: jnp.sum((noisy @ w) ** 2))(w)
            return w - 0.01 * grad, None

        return jax.lax.scan(body, w, x)[0]

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


@case(_KEY)
def a_fori_loop_that_never_splits():
    @jax.jit
    def step(w, x, key, steps):
        def body(_, w):
            mask = jax.random.bernoulli(key, 0.5, x.shape)  # expect: key-reuse
            return w - 0.01 * (x * mask).T @ (x @ w)

        return jax.lax.fori_loop(0, steps, body, w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.PRNGKey(3), 5


@case(_KEY)
def the_consumed_half_is_carried_on():
    @jax.jit
    def step(w, x, key):
        def body(carry, row):
            w, key = carry
            key, sub = jax.random.split(key)  # expect: key-reuse
            noisy = row + jax.random.normal(sub, row.shape)
            return (w - 0.01 * noisy[:, None] * (noisy @ w), sub), None

        (w, _), _ = jax.lax.scan(body, (w, key), x)
        return w

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


@case(_KEY)
def two_calls_of_the_model_with_one_key():
    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        keys = jax.random.split(key, x.shape[0])

        def loss(model):
            clean = jax.vmap(model)(x, keys)
            noisy = jax.vmap(model)(x + 0.01, keys)  # expect: key-reuse
            return cross_entropy(clean, y) + jnp.mean((clean - noisy) ** 2)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *net(), *batch(), jax.random.PRNGKey(1)


@case(_KEY)
def a_python_loop_over_layers():
    class Layer(eqx.Module):
        linear: eqx.nn.Linear
        dropout: eqx.nn.Dropout

        def __call__(self, x, key):
            return self.dropout(jax.nn.relu(self.linear(x)), key=key)

    class Stack(eqx.Module):
        layers: list

        def __call__(self, x, key):
            for layer in self.layers:
                x = layer(x, key)  # expect: key-reuse
            return x

    keys = jax.random.split(jax.random.key(0), 3)
    model = Stack([Layer(eqx.nn.Linear(4, 4, key=k), eqx.nn.Dropout(0.1)) for k in keys])

    @eqx.filter_jit
    def step(model, x, y, key):
        def loss(model):
            keys = jax.random.split(key, x.shape[0])
            return cross_entropy(jax.vmap(model)(x, keys), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads)), value

    return step, model, *batch(), jax.random.key(1)


@case(_KEY)
def folded_and_split():
    @jax.jit
    def step(w, x, key, epoch):
        x = x + jax.random.normal(jax.random.fold_in(key, epoch), x.shape)
        keys = jax.random.split(key, x.shape[0])  # expect: key-reuse
        mask = jax.vmap(lambda k, row: jax.random.bernoulli(k, 0.5, row.shape))(keys, x)
        return w - 0.01 * (x * mask).T @ (x @ w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0), 3


@case(_KEY)
def folded_and_drawn_from():
    @jax.jit
    def step(w, x, key, epoch):
        shift = jax.random.uniform(key, x.shape)
        scale = jax.random.normal(jax.random.fold_in(key, epoch), x.shape)  # expect: key-reuse
        x = x * scale + shift
        return w - 0.01 * x.T @ (x @ w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.PRNGKey(0), 3


@case(_KEY)
def returned_as_it_came():
    @jax.jit
    def step(state, x):
        noise_key, _ = jax.random.split(state["key"])  # expect: key-reuse
        noisy = x + jax.random.normal(noise_key, x.shape)
        w = state["w"] - 0.01 * noisy.T @ (noisy @ state["w"])
        return {"w": w, "key": state["key"]}

    return step, {"w": jnp.ones((4, 2)), "key": jax.random.key(0)}, batch()[0]


@case(_KEY)
def twice_the_same_number_folded_in():
    @jax.jit
    def step(w, x, key):
        x = x + jax.random.normal(jax.random.fold_in(key, 1), x.shape)
        keep = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, x.shape)  # expect: key-reuse
        return w - 0.01 * (x * keep).T @ (x @ w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


@case(_KEY)
def one_of_the_split_keys_twice():
    @jax.jit
    def step(w, x, key):
        keys = jax.random.split(key, 3)
        x = x + jax.random.normal(keys[0], x.shape)
        keep = jax.random.bernoulli(keys[1], 0.5, x.shape)
        w = w + 0.01 * jax.random.normal(keys[1], w.shape)  # expect: key-reuse
        return w - 0.01 * (x * keep).T @ (x @ w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.PRNGKey(0)


@case(_KEY)
def in_a_branch_and_after_it():
    @jax.jit
    def step(w, x, key):
        def noisy(x):
            return x + jax.random.normal(key, x.shape)

        x = jax.lax.cond(jnp.sum(x) > 0, noisy, lambda x: x, x)
        keep = jax.random.bernoulli(key, 0.5, x.shape)  # expect: key-reuse
        return w - 0.01 * (x * keep).T @ (x @ w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


@case(_KEY)
def inside_a_checkpointed_block():
    @jax.jit
    def step(w, x, key):
        @jax.checkpoint
        def block(w):
            h = x @ w
            h = h * jax.random.bernoulli(key, 0.5, h.shape)
            return jnp.sum((h + jax.random.normal(key, h.shape)) ** 2)  # expect: key-reuse

        return w - 0.01 * jax.grad(block)(w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


# -- right ----------------------------------------------------------------------------------------


@case(_KEY)
def right_split_before_each_use():
    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        noise_key, dropout_key = jax.random.split(key)
        x = x + jax.random.normal(noise_key, x.shape)

        def loss(model):
            keys = jax.random.split(dropout_key, x.shape[0])
            return cross_entropy(jax.vmap(model)(x, keys), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *net(), *batch(), jax.random.PRNGKey(1)


@case(_KEY)
def right_exclusive_branches():
    @jax.jit
    def step(w, x, key):
        def gaussian(x):
            return x + jax.random.normal(key, x.shape)

        def uniform(x):
            return x + jax.random.uniform(key, x.shape)

        x = jax.lax.cond(jnp.sum(x) > 0, gaussian, uniform, x)
        return w - 0.01 * x.T @ (x @ w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


@case(_KEY)
def right_exclusive_branches_under_vmap():
    def augmented(x, key):
        return jax.lax.cond(
            x[0] > 0,
            lambda: x + jax.random.normal(key, x.shape),
            lambda: x * jax.random.bernoulli(key, 0.5, x.shape),
        )

    @jax.jit
    def step(w, x, key):
        keys = jax.random.split(key, x.shape[0])

        def loss(w):
            return jnp.mean((jax.vmap(augmented)(x, keys) @ w) ** 2)

        return w - 0.01 * jax.grad(loss)(w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


@case(_KEY)
def right_checkpointed_dropout_in_a_scan():
    @jax.jit
    def step(w, x, key):
        def loss(w):
            @jax.checkpoint
            def body(h, layer):
                h = jnp.tanh(h @ w)
                keep = jax.random.bernoulli(jax.random.fold_in(key, layer), 0.5, h.shape)
                return h * keep, None

            return jnp.mean(jax.lax.scan(body, x, jnp.arange(5))[0] ** 2)

        return w - 0.01 * jax.grad(loss)(w)

    return step, jnp.eye(4), batch()[0], jax.random.PRNGKey(0)


@case(_KEY)
def right_a_draw_again_in_a_derivative():
    @jax.custom_vjp
    def noisy(x, key):
        return x * jax.random.normal(key, x.shape)

    def forward(x, key):
        return noisy(x, key), key

    def backward(key, grad):
        return grad * jax.random.normal(key, grad.shape), None

    noisy.defvjp(forward, backward)

    @jax.jit
    def step(w, x, key):
        return w - 0.01 * jax.grad(lambda w: jnp.mean(noisy(x @ w, key) ** 2))(w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


@case(_KEY)
def right_carried_through_a_scan():
    @jax.jit
    def step(state, x):
        def body(carry, row):
            w, key = carry
            key, sub = jax.random.split(key)
            noisy = row + jax.random.normal(sub, row.shape)
            return (w - 0.01 * noisy[:, None] * (noisy @ w), key), None

        return jax.lax.scan(body, state, x)[0]

    return step, (jnp.ones((4, 2)), jax.random.key(0)), batch()[0]


@case(_KEY)
def right_different_numbers_folded_in():
    @jax.jit
    def step(w, x, key, number):
        key = jax.random.fold_in(key, number)
        x = x + jax.random.normal(jax.random.fold_in(key, 0), x.shape)
        keep = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, x.shape)
        return w - 0.01 * (x * keep).T @ (x @ w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0), 7


@case(_KEY)
def right_keys_by_index_in_a_python_loop():
    @jax.jit
    def step(w, x, key):
        keys = jax.random.split(key, 4)
        for at in range(4):
            x = x + 0.1 * jax.random.normal(keys[at], x.shape)
        return w - 0.01 * x.T @ (x @ w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.PRNGKey(0)


@case(_KEY)
def right_a_line_search_draws_again():
    optimizer = optax.lbfgs()

    @jax.jit
    def step(w, opt_state, x, key):
        def loss(w):
            return jnp.mean((x * jax.random.bernoulli(key, 0.5, x.shape) @ w - 1) ** 2)

        value, grad = jax.value_and_grad(loss)(w)
        updates, opt_state = optimizer.update(
            grad, opt_state, w, value=value, grad=grad, value_fn=loss
        )
        return optax.apply_updates(w, updates), opt_state

    w = jnp.ones((4, 2))
    # As it comes, optax's state is weakly typed in places, and that is another rule.
    opt_state = jax.tree.map(lambda leaf: jnp.array(leaf, leaf.dtype), optimizer.init(w))
    return step, w, opt_state, batch()[0], jax.random.key(0)


@case(_KEY)
def right_distributions_that_consume_a_key_inside():
    @jax.jit
    def step(w, x, key):
        keys = jax.random.split(key, 5)
        x = x + jax.random.poisson(keys[0], 3.0, x.shape)
        x = x + jax.random.gamma(keys[1], 2.0, x.shape) + jax.random.beta(keys[2], 1.0, 2.0)
        x = x[jax.random.permutation(keys[3], x.shape[0])]
        rows = jax.random.choice(keys[4], x.shape[0], (3,), replace=False)
        return w - 0.01 * x[rows].T @ (x[rows] @ w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


@case(_KEY)
def right_a_second_call_that_draws_nothing():
    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        keys = jax.random.split(key, x.shape[0])

        def loss(model):
            return cross_entropy(jax.vmap(model)(x, keys), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        clean = jax.vmap(eqx.nn.inference_mode(model))(x, keys)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value, cross_entropy(clean, y)

    return step, *net(), *batch(), jax.random.key(1)


@case(_KEY)
def a_key_of_all_turns_under_a_derivative():
    cell = eqx.nn.GRUCell(4, 3, key=jax.random.key(0))

    @eqx.filter_jit
    def step(cell, xs, key):
        @eqx.filter_grad
        def gradient(cell):
            def turn(h, x):
                # The same in each turn, so that JAX computes it once, before them.
                kept = jax.random.bernoulli(key, 0.9, h.shape)  # expect: key-reuse
                h = jnp.where(kept, cell(x, h), h)
                return h, h

            return jnp.mean(jax.lax.scan(turn, jnp.zeros(3), xs)[1] ** 2)

        return eqx.apply_updates(cell, jax.tree.map(lambda g: -0.1 * g, gradient(cell)))

    return step, cell, batch()[0], jax.random.key(1)


@case(_KEY)
def one_mask_for_all_turns_drawn_before_them():
    cell = eqx.nn.GRUCell(4, 3, key=jax.random.key(0))

    @eqx.filter_jit
    def step(cell, xs, key):
        @eqx.filter_grad
        def gradient(cell):
            kept = jax.random.bernoulli(key, 0.9, (3,))

            def turn(h, x):
                h = jnp.where(kept, cell(x, h), h)
                return h, h

            return jnp.mean(jax.lax.scan(turn, jnp.zeros(3), xs)[1] ** 2)

        return eqx.apply_updates(cell, jax.tree.map(lambda g: -0.1 * g, gradient(cell)))

    return step, cell, batch()[0], jax.random.key(1)


@case(_KEY)
def two_checkpointed_blocks_with_one_key():
    @jax.checkpoint
    def block(w, x, key):
        return x + jnp.tanh(x @ w) * jax.random.bernoulli(key, 0.9, x.shape)

    def loss(ws, x, key):
        x = block(ws[0], x, key)
        x = block(ws[1], x, key)  # expect: key-reuse
        return jnp.mean(x**2)

    @jax.jit
    def step(ws, x, key):
        return jax.tree.map(lambda w, g: w - 0.1 * g, ws, jax.grad(loss)(ws, x, key))

    return step, [jnp.eye(4), jnp.eye(4)], batch()[0], jax.random.PRNGKey(0)
