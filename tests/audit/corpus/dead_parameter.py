"""Parameters that never learn, and what only looks like that."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import treadle

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, params

_DEAD = "dead-parameter"
_DECAYING = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


class Net(eqx.Module):
    """A classifier whose call leaves a layer out, or does not."""

    first: eqx.nn.Linear
    spare: eqx.nn.Linear
    last: eqx.nn.Linear
    whole: bool = eqx.field(static=True)

    def __init__(self, whole=False):
        one, two, three = jax.random.split(jax.random.key(0), 3)
        self.first = eqx.nn.Linear(4, 8, key=one)
        self.spare = eqx.nn.Linear(8, 8, key=two)
        self.last = eqx.nn.Linear(8, 3, key=three)
        self.whole = whole

    def __call__(self, x):
        hidden = jax.nn.relu(self.first(x))
        if self.whole:
            hidden = jax.nn.relu(self.spare(hidden))
        return self.last(hidden)


def _with(model, optimizer=OPTIMIZER):
    return model, optimizer.init(eqx.filter(model, eqx.is_inexact_array))


def _hidden(p, x):
    return jax.nn.relu(x @ p["w1"] + p["b1"])


def _descent(loss, p, *data):
    value, grads = jax.value_and_grad(loss)(p, *data)
    return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value


@case(_DEAD)
def a_layer_that_is_never_called():
    @eqx.filter_jit
    def step(model, opt_state, x, y):
        def loss(model):
            return cross_entropy(jax.vmap(model)(x), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        model = eqx.apply_updates(model, updates)  # expect: dead-parameter
        return model, opt_state, value

    return step, *_with(Net()), *batch()


@case(_DEAD)
def hidden_by_the_norm_of_all_gradients_and_by_decay():
    @jax.jit
    def step(p, opt_state, x, y):
        def loss(p):
            return cross_entropy(_hidden(p, x) @ p["w2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        updates, opt_state = _DECAYING.update(grads, opt_state, p)
        return optax.apply_updates(p, updates), opt_state, value  # expect: dead-parameter

    p = {**params(), "unused": jnp.ones((3, 3))}
    del p["b2"]
    return step, p, _DECAYING.init(p), *batch()


@case(_DEAD)
def clipped_after_the_decay_and_skipped_if_not_finite():
    optimizer = optax.apply_if_finite(
        optax.chain(optax.adamw(1e-3), optax.clip_by_global_norm(1.0)), 3
    )

    @jax.jit
    def step(p, opt_state, x, y):
        def loss(p):
            return cross_entropy(_hidden(p, x) @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        updates, opt_state = optimizer.update(grads, opt_state, p)
        p = optax.apply_updates(p, updates)  # expect: dead-parameter
        return p, opt_state, value

    p = {**params(), "unused": jnp.ones((3, 3))}
    return step, p, optimizer.init(p), *batch()


@case(_DEAD)
def a_factor_for_all_updates_by_hand():
    optimizer = optax.adamw(1e-3)

    @jax.jit
    def step(p, opt_state, x, y):
        def loss(p):
            return cross_entropy(_hidden(p, x) @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        updates, opt_state = optimizer.update(grads, opt_state, p)
        factor = jnp.minimum(1.0, 1.0 / optax.tree.norm(updates))
        updates = jax.tree.map(lambda leaf: factor * leaf, updates)
        return optax.apply_updates(p, updates), opt_state, value  # expect: dead-parameter

    p = {**params(), "unused": jnp.ones((3, 3))}
    return step, p, optimizer.init(p), *batch()


@case(_DEAD)
def features_that_are_stopped_in_the_loss():
    @eqx.filter_jit
    def step(model, opt_state, x, y):
        def loss(model):
            hidden = jax.vmap(model.first)(x)
            hidden = jax.lax.stop_gradient(jax.nn.relu(hidden))  # expect: dead-parameter
            return cross_entropy(jax.vmap(model.last)(jax.vmap(model.spare)(hidden)), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *_with(Net(whole=True)), *batch()


@case(_DEAD)
def features_that_are_stopped_by_the_module_around():
    class Probe(eqx.Module):
        encoder: eqx.nn.Linear
        head: eqx.nn.Linear

        def __call__(self, x):
            features = jax.nn.softmax(self.encoder(x))
            return self.head(jax.lax.stop_gradient(features))  # expect: dead-parameter

    def loss_fn(model, example, key):
        x, y = example
        return cross_entropy(model(x), y)

    one, two = jax.random.split(jax.random.key(0))
    model = Probe(eqx.nn.Linear(4, 8, key=one), eqx.nn.Linear(8, 3, key=two))
    step = treadle.TrainStep(loss_fn, optax.adamw(1e-3))
    return step, step.init(model, key=jax.random.key(0)), batch()


@case(_DEAD)
def a_treadle_step_with_a_layer_that_is_never_called():
    def loss_fn(model, example, key):  # expect: dead-parameter
        x, y = example
        return cross_entropy(model(x), y)

    step = treadle.TrainStep(loss_fn, _DECAYING, accumulate=2)
    return step, step.init(Net(), key=jax.random.key(0)), batch()


@case(_DEAD)
def a_treadle_step_with_a_temperature_that_is_not_used():
    class Scaled(eqx.Module):
        net: Net
        temperature: jax.Array

        def __call__(self, x):
            return self.net(x)

    def loss_fn(model, example, key):  # expect: dead-parameter
        x, y = example
        return cross_entropy(model(x), y)

    model = Scaled(Net(whole=True), jnp.ones(()))
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    return step, step.init(model, key=jax.random.key(0)), batch()


@case(_DEAD)
def codes_that_are_rounded():
    @jax.jit
    def step(p, x, y):
        def loss(p):
            codes = jnp.round(_hidden(p, x))  # expect: dead-parameter
            return cross_entropy(codes @ p["w2"] + p["b2"], y)

        return _descent(loss, p)

    return step, params(), *batch()


@case(_DEAD)
def a_choice_by_argmax():
    @jax.jit
    def step(p, opt_state, x, y):
        def loss(p):
            chosen = jnp.argmax(_hidden(p, x), axis=-1)  # expect: dead-parameter
            return cross_entropy(p["table"][chosen] @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(p, updates), opt_state, value

    p = {**params(), "table": jnp.ones((8, 8))}
    return step, p, OPTIMIZER.init(p), *batch()


@case(_DEAD)
def a_second_loss_of_weight_zero():
    weight = 0.0

    @jax.jit
    def step(p, x, y):
        def loss(p):
            hidden = _hidden(p, x)
            again = jnp.mean((hidden @ p["decoder"] - x) ** 2)
            classified = cross_entropy(hidden @ p["w2"] + p["b2"], y)
            return classified + weight * again  # expect: dead-parameter

        return _descent(loss, p)

    return step, {**params(), "decoder": jnp.ones((8, 4))}, *batch()


@case(_DEAD)
def a_head_that_only_a_metric_needs():
    @jax.jit
    def step(state, x, y):
        def loss(p):
            hidden = _hidden(p, x)
            error = jnp.mean((hidden @ p["value"]) ** 2)
            return cross_entropy(hidden @ p["w2"] + p["b2"], y), error

        p, momentum = state["params"], state["momentum"]
        (value, error), grads = jax.value_and_grad(loss, has_aux=True)(p)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
        p = jax.tree.map(lambda p, m: p - 0.1 * m, p, momentum)  # expect: dead-parameter
        return {"params": p, "momentum": momentum}, value, error

    p = {**params(), "value": jnp.ones((8, 2))}
    return step, {"params": p, "momentum": jax.tree.map(jnp.zeros_like, p)}, *batch()


@case(_DEAD)
def one_of_the_layers_of_a_scan():
    @jax.jit
    def step(p, x, y):
        def loss(p):
            def block(hidden, layer):
                return hidden + jnp.tanh(hidden @ layer["w"]), None

            hidden, _ = jax.lax.scan(jax.checkpoint(block), _hidden(p, x), p["blocks"])
            return cross_entropy(hidden @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        norm = optax.tree.norm(grads)
        p = jax.tree.map(lambda p, g: p - 0.1 * g / norm, p, grads)  # expect: dead-parameter
        return p, value

    blocks = {"w": jnp.ones((3, 8, 8)), "scale": jnp.ones((3, 8))}
    return step, {**params(), "blocks": blocks}, *batch()


@case(_DEAD)
def many_steps_in_a_scan():
    @jax.jit
    def steps(p, xs, ys):
        def body(p, xy):
            def loss(p):
                return cross_entropy(_hidden(p, xy[0]) @ p["w2"], xy[1])

            value, grads = jax.value_and_grad(loss)(p)
            new = jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)  # expect: dead-parameter
            return new, value

        return jax.lax.scan(body, p, (xs, ys))

    x, y = batch()
    return steps, params(), x[None], y[None]


@case(_DEAD)
def frozen_by_a_mask_and_still_decayed():
    optimizer = optax.adamw(1e-3)

    @jax.jit
    def step(p, opt_state, x, y):
        def loss(p):
            return cross_entropy(_hidden(p, x) @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        grads = {**grads, "w1": jnp.zeros_like(grads["w1"])}
        updates, opt_state = optimizer.update(grads, opt_state, p)
        p = optax.apply_updates(p, updates)  # expect: dead-parameter
        return p, opt_state, value

    return step, params(), optimizer.init(params()), *batch()


@case(_DEAD)
def nothing_but_its_own_penalty():
    @jax.jit
    def step(p, x, y):
        def loss(p):
            penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p))
            return cross_entropy(_hidden(p, x) @ p["w2"], y) + 1e-4 * penalty

        value, grads = jax.value_and_grad(loss)(p)
        p = jax.tree.map(lambda p, g: p - 0.1 * g, p, grads)  # expect: dead-parameter
        return p, value

    return step, params(), *batch()


@case(_DEAD)
def an_average_of_itself():
    @jax.jit
    def step(state, x, y):
        def loss(p):
            return cross_entropy(_hidden(p, x) @ p["w2"] + p["b2"], y)

        new, value = _descent(loss, state["params"])
        mean = state["mean"]
        mean = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, mean, mean)  # expect: dead-parameter
        return {"params": new, "mean": mean}, value

    return step, {"params": params(), "mean": params()}, *batch()


@case(_DEAD, needs="flax")
def flax_a_layer_that_is_called_for_nothing():
    import flax.linen as nn
    from flax.training import train_state

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x):
            hidden = nn.relu(nn.Dense(8)(x))
            nn.relu(nn.Dense(5)(hidden))
            return nn.Dense(3)(hidden)

    model = Classifier()
    p = model.init(jax.random.key(0), batch()[0])["params"]

    @jax.jit
    def step(state, x, y):
        def loss(p):
            return cross_entropy(state.apply_fn({"params": p}, x), y)

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value  # expect: dead-parameter

    state = train_state.TrainState.create(apply_fn=model.apply, params=p, tx=_DECAYING)
    return step, state, *batch()


@case(_DEAD, needs="flax")
def flax_features_that_are_stopped():
    import flax.linen as nn

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x):
            hidden = nn.relu(nn.Dense(8)(x))
            hidden = jax.lax.stop_gradient(hidden)  # expect: dead-parameter
            return nn.Dense(3)(hidden)

    model = Classifier()
    p = model.init(jax.random.key(0), batch()[0])

    @jax.jit
    def step(p, opt_state, x, y):
        value, grads = jax.value_and_grad(lambda p: cross_entropy(model.apply(p, x), y))(p)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(p, updates), opt_state, value

    return step, p, OPTIMIZER.init(p), *batch()


@case(_DEAD, needs="haiku")
def haiku_a_head_that_is_dropped():
    import haiku as hk

    def forward(x):
        hidden = jax.nn.relu(hk.Linear(8)(x))
        return hk.Linear(3)(hidden), hk.Linear(2, name="value")(hidden)

    model = hk.without_apply_rng(hk.transform(forward))
    p = model.init(jax.random.key(0), batch()[0])

    @jax.jit
    def step(p, opt_state, x, y):
        value, grads = jax.value_and_grad(lambda p: cross_entropy(model.apply(p, x)[0], y))(p)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(p, updates), opt_state, value  # expect: dead-parameter

    return step, p, OPTIMIZER.init(p), *batch()


# -- right ----------------------------------------------------------------------------------------


@case(_DEAD)
def right_everything_is_used():
    @eqx.filter_jit
    def step(model, opt_state, x, y):
        def loss(model):
            return cross_entropy(jax.vmap(model)(x), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = _DECAYING.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *_with(Net(whole=True), _DECAYING), *batch()


class Positions(eqx.Module):
    """A table that is no parameter, though it is an array of floats."""

    table: jax.Array
    net: Net

    def __call__(self, x):
        return self.net(x + jax.lax.stop_gradient(self.table))


class Waves(eqx.Module):
    """Random features: what is stopped is computed from the buffer."""

    projection: jax.Array
    net: eqx.nn.Linear

    def __call__(self, x):
        return self.net(jax.lax.stop_gradient(jnp.sin(self.projection @ x)))


@case(_DEAD)
def right_a_buffer_of_the_module_that_stops_it():
    @eqx.filter_jit
    def step(model, opt_state, x, y):
        def loss(model):
            return cross_entropy(jax.vmap(model)(x), y)

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *_with(Positions(jnp.ones(4), Net(whole=True))), *batch()


@case(_DEAD)
def right_a_buffer_in_a_treadle_step():
    def loss_fn(model, example, key):
        x, y = example
        return cross_entropy(model(x), y)

    model = Waves(jnp.ones((5, 4)), eqx.nn.Linear(5, 3, key=jax.random.key(0)))
    step = treadle.TrainStep(loss_fn, OPTIMIZER)
    return step, step.init(model, key=jax.random.key(0)), batch()


@case(_DEAD)
def right_a_treadle_step_that_trains_a_part():
    def loss_fn(model, example, key):
        x, y = example
        return cross_entropy(model(x), y)

    step = treadle.TrainStep(loss_fn, _DECAYING, trainable=treadle.tree.select("last/*"))
    return step, step.init(Net(), key=jax.random.key(0)), batch()


@case(_DEAD)
def right_frozen_by_a_partition():
    model = Net(whole=True)
    of_head = jax.tree.map(lambda _: False, model)
    of_head = eqx.tree_at(lambda tree: tree.last.weight, of_head, replace=True)
    optimizer = optax.adamw(1e-3)

    @eqx.filter_jit
    def step(model, opt_state, x, y):
        trained, frozen = eqx.partition(model, of_head)

        def loss(trained):
            return cross_entropy(jax.vmap(eqx.combine(trained, frozen))(x), y)

        value, grads = eqx.filter_value_and_grad(loss)(trained)
        updates, opt_state = optimizer.update(grads, opt_state, trained)
        return eqx.combine(eqx.apply_updates(trained, updates), frozen), opt_state, value

    return step, model, optimizer.init(eqx.filter(model, of_head)), *batch()


@case(_DEAD)
def right_frozen_by_labels():
    labels = {"w1": "frozen", "b1": "frozen", "w2": "trained", "b2": "trained"}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.multi_transform(
            {"trained": optax.adamw(1e-3), "frozen": optax.set_to_zero()}, labels
        ),
    )

    @jax.jit
    def step(p, opt_state, x, y):
        def loss(p):
            return cross_entropy(_hidden(p, x) @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        updates, opt_state = optimizer.update(grads, opt_state, p)
        return optax.apply_updates(p, updates), opt_state, value

    return step, params(), optimizer.init(params()), *batch()


@case(_DEAD)
def right_frozen_by_zeroing_gradients_before_adam():
    @jax.jit
    def step(p, opt_state, x, y):
        def loss(p):
            return cross_entropy(_hidden(p, x) @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        grads = {**grads, "w1": 0.0 * grads["w1"]}
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(p, updates), opt_state, value

    return step, params(), OPTIMIZER.init(params()), *batch()


@case(_DEAD)
def right_a_target_network():
    @jax.jit
    def step(p, target, opt_state, x, y):
        def loss(p):
            wanted = jax.lax.stop_gradient(_hidden(target, x) @ target["w2"])
            return jnp.mean((_hidden(p, x) @ p["w2"] + p["b2"] - wanted) ** 2)

        value, grads = jax.value_and_grad(loss)(p)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        target = jax.tree.map(lambda t, p: 0.99 * t + 0.01 * p, target, p)
        return optax.apply_updates(p, updates), target, opt_state, value

    return step, params(), params(), OPTIMIZER.init(params()), *batch()


@case(_DEAD)
def right_an_average_and_skipped_steps():
    @jax.jit
    def step(p, average, opt_state, x, y):
        def loss(p):
            return cross_entropy(_hidden(p, x) @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        updates, new_state = OPTIMIZER.update(grads, opt_state)
        new = optax.apply_updates(p, updates)
        ok = jnp.isfinite(optax.tree.norm(grads))
        new, opt_state = jax.tree.map(
            lambda a, b: jnp.where(ok, a, b), (new, new_state), (p, opt_state)
        )
        average = jax.tree.map(lambda a, p: 0.99 * a + 0.01 * p, average, new)
        return new, average, opt_state, value

    return step, params(), params(), OPTIMIZER.init(params()), *batch()


@case(_DEAD)
def right_one_of_two_networks():
    @jax.jit
    def step(generator, critic, opt_state, z, x):
        def loss(critic):
            fake = _hidden(generator, z) @ generator["w2"]
            real = _hidden(critic, x) @ critic["w2"] + critic["b2"]
            return jnp.mean(real) - jnp.mean(fake @ critic["w2"].T)

        value, grads = jax.value_and_grad(loss)(critic)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        critic = optax.apply_updates(critic, updates)
        critic = jax.tree.map(lambda leaf: jnp.clip(leaf, -0.1, 0.1), critic)
        return generator, critic, opt_state, value

    x, _ = batch()
    return step, params(), params(), OPTIMIZER.init(params()), x, x


@case(_DEAD)
def right_a_branch_that_is_not_always_taken():
    @jax.jit
    def step(p, opt_state, x, y, number):
        def loss(p):
            hidden = jax.lax.cond(
                number > 100, lambda: _hidden(p, x) @ p["late"], lambda: _hidden(p, x)
            )
            return cross_entropy(hidden @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(p, updates), opt_state, value

    p = {**params(), "late": jnp.eye(8)}
    return step, p, OPTIMIZER.init(p), *batch(), 3


@case(_DEAD)
def right_rounded_straight_through():
    @jax.jit
    def step(p, x, y):
        def loss(p):
            hidden = _hidden(p, x)
            codes = hidden + jax.lax.stop_gradient(jnp.round(hidden) - hidden)
            return cross_entropy(codes @ p["w2"] + p["b2"], y)

        return _descent(loss, p)

    return step, params(), *batch()


@case(_DEAD)
def right_rates_that_are_injected_and_microbatches():
    optimizer = optax.MultiSteps(
        optax.inject_hyperparams(optax.adamw)(optax.cosine_decay_schedule(1e-3, 100)), 4
    )

    @jax.jit
    def step(p, opt_state, x, y):
        def loss(p):
            return cross_entropy(_hidden(p, x) @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        updates, opt_state = optimizer.update(grads, opt_state, p)
        return optax.apply_updates(p, updates), opt_state, value

    return step, params(), optimizer.init(params()), *batch()


@case(_DEAD)
def right_statistics_of_a_batch():
    @eqx.filter_jit
    def step(model, state, opt_state, x, y):
        def loss(model, state):
            norm, last = model
            hidden, state = jax.vmap(
                norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
            )(x, state)
            return cross_entropy(jax.vmap(last)(hidden), y), state

        (value, state), grads = eqx.filter_value_and_grad(loss, has_aux=True)(model, state)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), state, opt_state, value

    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode="batch")
    model = norm, eqx.nn.Linear(4, 3, key=jax.random.key(0))
    model, opt_state = _with(model)
    return step, model, state, opt_state, *batch()


@case(_DEAD, needs="flax")
def flax_right_a_buffer_and_statistics():
    import flax.linen as nn

    class Waves(nn.Module):
        @nn.compact
        def __call__(self, x):
            frequencies = self.param("frequencies", nn.initializers.normal(), (4, 4))
            return x + jax.lax.stop_gradient(jnp.sin(x @ frequencies))

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.BatchNorm(use_running_average=False)(Waves()(x)))

    model = Classifier()
    variables = model.init(jax.random.key(0), batch()[0])

    @jax.jit
    def step(p, statistics, opt_state, x, y):
        def loss(p):
            known = {"params": p, "batch_stats": statistics}
            logits, new = model.apply(known, x, mutable=["batch_stats"])
            return cross_entropy(logits, y), new["batch_stats"]

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(p)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(p, updates), new, opt_state, value

    p = variables["params"]
    return step, p, variables["batch_stats"], OPTIMIZER.init(p), *batch()


@case(_DEAD, needs="haiku")
def haiku_right_random_features():
    import haiku as hk

    class RandomFeatures(hk.Module):
        def __call__(self, x):
            weights = hk.get_parameter("w", (4, 8), init=hk.initializers.RandomNormal())
            return jax.lax.stop_gradient(jnp.cos(x @ weights))

    model = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(3)(RandomFeatures()(x))))
    p = model.init(jax.random.key(0), batch()[0])

    @jax.jit
    def step(p, opt_state, x, y):
        value, grads = jax.value_and_grad(lambda p: cross_entropy(model.apply(p, x), y))(p)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(p, updates), opt_state, value

    return step, p, OPTIMIZER.init(p), *batch()


@case(_DEAD)
def hidden_by_an_optimizer_of_one_vector():
    def loss_fn(model, example, key):  # expect: dead-parameter
        x, y = example
        return cross_entropy(model(x), y)

    step = treadle.TrainStep(loss_fn, optax.flatten(optax.adamw(1e-3)))
    return step, step.init(Net(), key=jax.random.key(0)), batch()
