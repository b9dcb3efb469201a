"""Steps of Haiku under `jax.jit`."""

import jax
import jax.numpy as jnp
import optax

from . import case
from ._models import batch, cross_entropy

_OPTIMIZER = optax.adam(1e-3)


def _setup(width=8):
    import haiku as hk

    def forward(x):
        x = hk.dropout(hk.next_rng_key(), 0.2, x)
        x = jax.nn.relu(hk.Linear(width)(x))
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
        return hk.Linear(3)(x)

    model = hk.transform(forward)
    params = model.init(jax.random.PRNGKey(0), batch()[0])
    return model, params, _OPTIMIZER.init(params)


@case("key-reuse", needs="haiku")
def haiku_one_key_for_two_dropouts():
    import haiku as hk

    def forward(x):
        key = hk.next_rng_key()
        x = hk.dropout(key, 0.2, x)
        x = jax.nn.relu(hk.Linear(8)(x))
        return hk.Linear(3)(hk.dropout(key, 0.5, x))  # expect: key-reuse

    model = hk.transform(forward)
    params = model.init(jax.random.PRNGKey(0), batch()[0])

    @jax.jit
    def step(params, opt_state, key, x, y):
        def loss_fn(params):
            return cross_entropy(model.apply(params, key, x), y)

        grads = jax.grad(loss_fn)(params)
        updates, opt_state = _OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    return step, params, _OPTIMIZER.init(params), jax.random.PRNGKey(1), *batch()


@case("key-reuse", needs="haiku")
def haiku_the_key_of_the_model_for_noise():
    model, params, opt_state = _setup()

    @jax.jit
    def step(params, opt_state, key, x, y):
        def loss_fn(params):
            logits = model.apply(params, key, x)
            noise = jax.random.normal(key, logits.shape)  # expect: key-reuse
            return cross_entropy(logits + noise, y)

        grads = jax.grad(loss_fn)(params)
        updates, opt_state = _OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    return step, params, opt_state, jax.random.PRNGKey(1), *batch()


@case("key-constant", needs="haiku")
def haiku_a_constant_key():
    model, params, opt_state = _setup()

    @jax.jit
    def step(params, opt_state, x, y):
        def loss_fn(params):
            key = jax.random.PRNGKey(0)  # expect: key-constant
            return cross_entropy(model.apply(params, key, x), y)

        grads = jax.grad(loss_fn)(params)
        updates, opt_state = _OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    return step, params, opt_state, *batch()


@case("undonated-state", needs="haiku")
def haiku_parameters_kept_twice():
    model, params, opt_state = _setup(width=1 << 17)

    @jax.jit  # expect: undonated-state
    def step(params, opt_state, key, x, y):
        def loss_fn(params):
            return cross_entropy(model.apply(params, key, x), y)

        grads = jax.grad(loss_fn)(params)
        updates, opt_state = _OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    return step, params, opt_state, jax.random.PRNGKey(1), *batch()


@case("key-reuse", needs="haiku")
def haiku_right_split_outside():
    model, params, opt_state = _setup()

    @jax.jit
    def step(state, x, y):
        params, opt_state, key = state
        key, sub = jax.random.split(key)

        def loss_fn(params):
            return cross_entropy(model.apply(params, sub, x), y)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = _OPTIMIZER.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, key), loss

    return step, (params, opt_state, jax.random.PRNGKey(1)), *batch()


@case("uncompiled", needs="haiku")
def haiku_apply_without_jit():
    model, params, _ = _setup()

    def predict(params, key, x):  # expect: uncompiled
        return jnp.argmax(model.apply(params, key, x), -1)

    return predict, params, jax.random.PRNGKey(0), batch()[0]
