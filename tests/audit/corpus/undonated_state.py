"""Steps that keep the old state beside the new, and steps that do not."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import treadle

from . import case
from ._models import batch, cross_entropy

_UNDONATED = "undonated-state"
_OPTIMIZER = optax.adam(1e-3)
_WIDE = 1 << 17


def _loss(w, x):
    return jnp.mean((x @ w) ** 2)


def _weights():
    return {"w": jnp.ones((4, _WIDE)), "b": jnp.zeros(_WIDE)}


def _tree_loss(p, x):
    return jnp.mean((x @ p["w"] + p["b"]) ** 2)


def _model():
    model = eqx.nn.MLP(4, 3, 512, 2, key=jax.random.key(0))
    return model, _OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))


def _update(model, opt_state, x, y):
    def loss(model):
        return cross_entropy(jax.vmap(model)(x), y)

    value, grads = eqx.filter_value_and_grad(loss)(model)
    updates, opt_state = _OPTIMIZER.update(grads, opt_state)
    return eqx.apply_updates(model, updates), opt_state, value


@case(_UNDONATED)
def model_and_optimizer_of_equinox():
    @eqx.filter_jit  # expect: undonated-state
    def step(model, opt_state, x, y):
        return _update(model, opt_state, x, y)

    return step, *_model(), *batch()


@case(_UNDONATED)
def parameters_in_a_dictionary():
    @jax.jit  # expect: undonated-state
    def step(params, x):
        value, grads = jax.value_and_grad(_tree_loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    return step, _weights(), batch()[0]


@case(_UNDONATED)
def one_array_and_its_loss():
    @jax.jit  # expect: undonated-state
    def step(w, x):
        value, grad = jax.value_and_grad(_loss)(w, x)
        return w - 0.1 * grad, value

    return step, jnp.ones((4, _WIDE)), batch()[0]


@case(_UNDONATED)
def jitted_by_a_call():
    def step(state, x):  # expect: undonated-state
        params, opt_state = state
        value, grads = jax.value_and_grad(_tree_loss)(params, x)
        updates, opt_state = _OPTIMIZER.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), {"loss": value}

    params = _weights()
    return jax.jit(step), (params, _OPTIMIZER.init(params)), batch()[0]


@case(_UNDONATED)
def only_the_optimizer_is_donated():
    def step(params, opt_state, x):  # expect: undonated-state
        value, grads = jax.value_and_grad(_tree_loss)(params, x)
        updates, opt_state = _OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    params = _weights()
    return jax.jit(step, donate_argnums=1), params, _OPTIMIZER.init(params), batch()[0]


@case(_UNDONATED)
def a_treadle_step_that_was_told_not_to():
    def loss_fn(model, example, key):  # expect: undonated-state
        x, y = example
        return cross_entropy(model(x), y)

    step = treadle.TrainStep(loss_fn, _OPTIMIZER, donate=False)
    return step, step.init(_model()[0], key=jax.random.key(0)), batch()


@case(_UNDONATED)
def an_average_of_the_weights():
    @jax.jit  # expect: undonated-state
    def update_average(average, params):
        return jax.tree.map(lambda a, p: 0.99 * a + 0.01 * p, average, params)

    return update_average, _weights(), _weights()


@case(_UNDONATED)
def many_steps_in_a_scan():
    @jax.jit  # expect: undonated-state
    def steps(params, xs):
        def body(params, x):
            value, grads = jax.value_and_grad(_tree_loss)(params, x)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

        return jax.lax.scan(body, params, xs)

    return steps, _weights(), jnp.ones((3, 6, 4))


@case(_UNDONATED)
def an_update_that_is_skipped_when_it_is_not_finite():
    @jax.jit  # expect: undonated-state
    def step(params, x):
        value, grads = jax.value_and_grad(_tree_loss)(params, x)
        new = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return jax.lax.cond(jnp.isfinite(value), lambda: new, lambda: params), value

    return step, _weights(), batch()[0]


# -- right ----------------------------------------------------------------------------------------


@case(_UNDONATED)
def right_donated():
    def step(params, x):
        value, grads = jax.value_and_grad(_tree_loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    return jax.jit(step, donate_argnums=0), _weights(), batch()[0]


@case(_UNDONATED)
def right_data_first_and_the_rest_donated():
    @eqx.filter_jit(donate="all-except-first")
    def step(data, model, opt_state):
        return _update(model, opt_state, *data)

    return step, batch(), *_model()


@case(_UNDONATED)
def right_gradients_are_no_update():
    @jax.jit
    def gradients(params, x):
        return jax.value_and_grad(_tree_loss)(params, x)

    return gradients, _weights(), batch()[0]


@case(_UNDONATED)
def right_inference():
    @eqx.filter_jit
    def predict(model, x):
        return jax.vmap(model)(x)

    return predict, _model()[0], batch()[0]


@case(_UNDONATED)
def right_activations_of_the_shape_of_the_input():
    @jax.jit
    def block(params, x):
        return x + jnp.tanh(x @ params["w"]) @ params["w"].T

    return block, {"w": jnp.ones((64, 64))}, jnp.ones((1 << 13, 64))


@case(_UNDONATED)
def right_small():
    @jax.jit
    def step(params, x):
        value, grads = jax.value_and_grad(_tree_loss)(params, x)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    return step, {"w": jnp.ones((4, 8)), "b": jnp.zeros(8)}, batch()[0]


@case(_UNDONATED)
def right_treadle():
    def loss_fn(model, example, key):
        x, y = example
        return cross_entropy(model(x), y)

    step = treadle.TrainStep(loss_fn, _OPTIMIZER)
    return step, step.init(_model()[0], key=jax.random.key(0)), batch()


@case(_UNDONATED)
def a_method_whose_trainer_is_static():
    class Trainer:
        rate = 0.1

        @functools.partial(jax.jit, static_argnums=0)  # expect: undonated-state
        def step(self, w, x):
            return w - self.rate * jax.grad(_loss)(w, x)

    return Trainer().step, jnp.ones((4, _WIDE)), batch()[0]


@case(_UNDONATED)
def a_queue_that_is_written_into():
    @functools.partial(jax.jit, donate_argnums=0)  # expect: undonated-state
    def step(w, queue, at, x):
        def loss(w):
            seen = x @ w
            return jax.nn.logsumexp(seen @ queue.T, -1).mean(), seen

        grad, seen = jax.grad(loss, has_aux=True)(w)
        queue = jax.lax.dynamic_update_slice(queue, seen, (at, 0))
        return w - 0.1 * grad, queue, at + 1

    return step, jnp.ones((4, 16)), jnp.zeros((1 << 14, 16)), jnp.int32(0), batch()[0]


@case(_UNDONATED)
def a_replay_buffer():
    @jax.jit  # expect: undonated-state
    def remember(buffer, seen):
        at = buffer["at"]
        return {"seen": buffer["seen"].at[at].set(seen), "at": at + 1}

    return remember, {"seen": jnp.zeros((1 << 14, 16)), "at": jnp.int32(0)}, jnp.ones(16)


@case(_UNDONATED)
def donated_by_an_inner_function_only():
    @functools.partial(jax.jit, donate_argnums=0)
    def descent(w, grad):
        return w - 0.1 * grad

    @jax.jit  # expect: undonated-state
    def step(w, x):
        return descent(w, jax.grad(_loss)(w, x))

    return step, jnp.ones((4, _WIDE)), batch()[0]


@case(_UNDONATED)
def on_one_device_by_pmap():
    @functools.partial(jax.pmap, axis_name="devices")  # expect: undonated-state
    def step(w, x):
        return w - 0.1 * jax.lax.pmean(jax.grad(_loss)(w, x), "devices")

    return step, jnp.ones((1, 4, _WIDE)), batch()[0][None]


@case(_UNDONATED)
def donated_to_pmap():
    @functools.partial(jax.pmap, axis_name="devices", donate_argnums=0)
    def step(w, x):
        return w - 0.1 * jax.lax.pmean(jax.grad(_loss)(w, x), "devices")

    return step, jnp.ones((1, 4, _WIDE)), batch()[0][None]


@case(_UNDONATED)
def a_frozen_part_that_comes_out_as_it_came_in():
    @jax.jit
    def step(state, x):
        hidden = jnp.tanh(x @ state["frozen"])
        grad = jax.grad(_loss)(state["head"], hidden)
        return {"frozen": state["frozen"], "head": state["head"] - 0.1 * grad}

    return step, {"frozen": jnp.ones((4, _WIDE)), "head": jnp.ones((_WIDE, 1))}, batch()[0]


@case(_UNDONATED)
def gradients_of_a_loss_with_a_penalty():
    @jax.jit
    def gradients(w, x):
        return jax.value_and_grad(lambda w: _loss(w, x) + 1e-4 * jnp.sum(w**2))(w)

    return gradients, jnp.ones((4, _WIDE)), batch()[0]


@case(_UNDONATED)
def a_batch_that_is_mixed_at_random():
    @jax.jit
    def mixed(x, y, key):
        of_share, of_order = jax.random.split(key)
        share = jax.random.beta(of_share, 0.2, 0.2)
        order = jax.random.permutation(of_order, x.shape[0])
        both = {"x": x, "y": y}
        return jax.tree.map(lambda leaf: share * leaf + (1 - share) * leaf[order], both)

    def taken_apart(batch, key):
        return mixed(batch["x"], batch["y"], key)

    batches = {"x": jnp.ones((1 << 16, 4)), "y": jnp.ones((1 << 16, 1))}
    return jax.jit(taken_apart), batches, jax.random.key(0)


@case(_UNDONATED, needs="flax")
def a_module_of_flax_changed_in_place():
    from flax import nnx

    @nnx.jit  # expect: undonated-state
    def step(model, x):
        grads = nnx.grad(lambda model: jnp.mean(model(x) ** 2))(model)
        params = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads))

    return step, nnx.Linear(4, _WIDE, rngs=nnx.Rngs(0)), batch()[0]


@case(_UNDONATED, needs="flax")
def a_module_of_flax_that_is_donated():
    from flax import nnx

    @functools.partial(nnx.jit, donate_argnums=0)
    def step(model, x):
        grads = nnx.grad(lambda model: jnp.mean(model(x) ** 2))(model)
        params = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads))

    return step, nnx.Linear(4, _WIDE, rngs=nnx.Rngs(0)), batch()[0]


@case(_UNDONATED)
def right_a_large_batch_under_attack():
    @jax.jit
    def attacked(w, x, y):
        def loss(x):
            return cross_entropy(x @ w, y)

        def turn(_, moved):
            return jnp.clip(moved + 0.01 * jnp.sign(jax.grad(loss)(moved)), x - 0.03, x + 0.03)

        return jax.lax.fori_loop(0, 3, turn, x)

    return attacked, jnp.ones((4, 3)), jnp.ones((1 << 17, 4)), jnp.zeros(1 << 17, jnp.int32)


@case(_UNDONATED)
def right_the_updates_of_adamw_alone():
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-3, 100), weight_decay=0.1)

    @functools.partial(jax.jit, donate_argnums=1)
    def updates(params, opt_state, x):
        grads = jax.grad(_tree_loss)(params, x)
        return optimizer.update(grads, opt_state, params)

    return updates, _weights(), optimizer.init(_weights()), batch()[0]


@case(_UNDONATED)
def right_a_large_batch_that_comes_out_mended():
    @functools.partial(jax.jit, donate_argnums=0)
    def step(w, x):
        def loss(w):
            mended = x + jnp.tanh(x @ w)
            return jnp.mean((mended - 1) ** 2), mended

        (value, mended), grads = jax.value_and_grad(loss, has_aux=True)(w)
        return w - 0.1 * grads, value, mended

    return step, jnp.ones((4, 4)), jnp.ones((_WIDE, 4))


@case(_UNDONATED)
def one_array_that_is_averaged():
    @functools.partial(jax.jit, donate_argnums=0)  # expect: undonated-state
    def step(w, average, x):
        w = w - 0.1 * jax.grad(_loss)(w, x)
        return w, 0.999 * average + 0.001 * w

    return step, jnp.ones((4, _WIDE)), jnp.ones((4, _WIDE)), batch()[0]
