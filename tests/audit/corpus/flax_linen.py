"""Steps of Flax Linen under `jax.jit`, as its own guides write them."""

import jax
import jax.numpy as jnp
import optax

from . import case
from ._models import batch, cross_entropy


def _setup(wide=False):
    """A model with two dropouts, its parameters and an optimizer."""
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool):
            x = nn.Dropout(0.2, deterministic=not train)(x)
            x = nn.relu(nn.Dense((1 << 17) if wide else 8)(x))
            x = nn.Dropout(0.5, deterministic=not train)(x)
            return nn.Dense(3)(x)

    model, optimizer = Net(), optax.adam(1e-3)
    params = model.init(jax.random.key(0), batch()[0], train=False)["params"]
    return model, params, optimizer


def _state(model, params, optimizer):
    from flax.training import train_state

    return train_state.TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)


@case("key-reuse", needs="flax")
def flax_two_applications_with_one_key():
    model, params, optimizer = _setup()

    @jax.jit
    def step(state, x, y, key):
        def loss_fn(params):
            rngs = {"dropout": key}
            one = state.apply_fn({"params": params}, x, train=True, rngs=rngs)
            two = state.apply_fn({"params": params}, x, train=True, rngs=rngs)  # expect: key-reuse
            return cross_entropy(one, y) + jnp.mean((one - two) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    return step, _state(model, params, optimizer), *batch(), jax.random.key(1)


@case("key-reuse", needs="flax")
def flax_noise_and_dropout_of_one_raw_key():
    model, params, optimizer = _setup()

    @jax.jit
    def step(state, x, y, key):
        x = x + 0.1 * jax.random.normal(key, x.shape)

        def loss_fn(params):
            rngs = {"dropout": key}
            variables = {"params": params}
            logits = state.apply_fn(variables, x, True, rngs=rngs)  # expect: key-reuse
            return cross_entropy(logits, y)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    return step, _state(model, params, optimizer), *batch(), jax.random.PRNGKey(1)


@case("key-constant", needs="flax")
def flax_a_constant_dropout_key():
    model, params, optimizer = _setup()

    @jax.jit
    def step(state, x, y):
        def loss_fn(params):
            rngs = {"dropout": jax.random.key(0)}  # expect: key-constant
            logits = state.apply_fn({"params": params}, x, train=True, rngs=rngs)
            return cross_entropy(logits, y)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    return step, _state(model, params, optimizer), *batch()


@case("undonated-state", needs="flax")
def flax_a_train_state():
    model, params, optimizer = _setup(wide=True)

    @jax.jit  # expect: undonated-state
    def step(state, x, y):
        def loss_fn(params):
            return cross_entropy(state.apply_fn({"params": params}, x, train=False), y)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    return step, _state(model, params, optimizer), *batch()


@case("key-reuse", needs="flax")
def flax_right_folded_with_the_step():
    model, params, optimizer = _setup()

    @jax.jit
    def step(state, x, y, key):
        dropout_key = jax.random.fold_in(key, state.step)

        def loss_fn(params):
            rngs = {"dropout": dropout_key}
            logits = state.apply_fn({"params": params}, x, train=True, rngs=rngs)
            return cross_entropy(logits, y)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    state = _state(model, params, optimizer)
    return step, state, *batch(), jax.random.key(1)


@case("undonated-state", needs="flax")
def flax_right_donated():
    model, params, optimizer = _setup(wide=True)

    def step(state, x, y):
        def loss_fn(params):
            return cross_entropy(state.apply_fn({"params": params}, x, train=False), y)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    state = _state(model, params, optimizer)
    return jax.jit(step, donate_argnames="state"), state, *batch()


@case("key-reuse", needs="flax")
def flax_right_inference():
    model, params, _ = _setup()

    @jax.jit
    def predict(params, x):
        return model.apply({"params": params}, x, train=False)

    return predict, params, batch()[0]
