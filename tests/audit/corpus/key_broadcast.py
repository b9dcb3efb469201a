"""Draws that a whole batch shares, and draws of which each example has its own, or needs none."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import treadle

from . import case
from ._models import OPTIMIZER, batch, cross_entropy, net, params

_BROADCAST = "key-broadcast"


def _descent(w, x):
    return w - 0.01 * x.T @ (x @ w)


def _trained(model):
    return OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))


def _updated(model, opt_state, loss):
    value, grads = eqx.filter_value_and_grad(loss)(model)
    updates, opt_state = OPTIMIZER.update(grads, opt_state)
    return eqx.apply_updates(model, updates), opt_state, value


class _OneDropout(eqx.Module):
    first: eqx.nn.Linear
    last: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(4, 8, key=one)
        self.last = eqx.nn.Linear(8, 3, key=two)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, key):
        h = jax.nn.relu(self.first(x))
        return self.last(self.dropout(h, key=key))


@case(_BROADCAST)
def one_key_for_a_vmapped_model():
    class Classifier(eqx.Module):
        linear: eqx.nn.Linear
        dropout: eqx.nn.Dropout

        def __call__(self, x, key):
            x = self.dropout(x, key=key)  # expect: key-broadcast
            return self.linear(x)

    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        def loss(model):
            return cross_entropy(jax.vmap(model, in_axes=(0, None))(x, key), y)

        return _updated(model, opt_state, loss)

    model = Classifier(eqx.nn.Linear(4, 3, key=jax.random.key(0)), eqx.nn.Dropout(0.2))
    return step, model, _trained(model), *batch(), jax.random.key(1)


@case(_BROADCAST)
def a_raw_key_in_the_closure_of_what_is_mapped():
    @jax.jit
    def step(p, x, y, key):
        def forward(p, x):
            h = jax.nn.relu(x @ p["w1"] + p["b1"])
            keep = jax.random.bernoulli(key, 0.8, h.shape)  # expect: key-broadcast
            h = jnp.where(keep, h / 0.8, 0.0)
            return h @ p["w2"] + p["b2"]

        def loss(p):
            return cross_entropy(jax.vmap(lambda x: forward(p, x))(x), y)

        value, grads = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    return step, params(), *batch(), jax.random.PRNGKey(0)


@case(_BROADCAST)
def a_mask_for_the_features_alone():
    @jax.jit
    def step(p, x, y, key):
        mask = jax.random.bernoulli(key, 0.9, (x.shape[-1],))  # expect: key-broadcast

        def loss(p):
            h = jax.nn.relu((x * mask / 0.9) @ p["w1"] + p["b1"])
            return cross_entropy(h @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    return step, params(), *batch(), jax.random.key(0)


@case(_BROADCAST)
def noise_of_the_shape_of_one_image():
    conv = eqx.nn.Conv2d(1, 2, 3, key=jax.random.key(0))

    @eqx.filter_jit
    def step(conv, images, key):
        noise = 0.1 * jax.random.normal(key, images.shape[1:])  # expect: key-broadcast

        def loss(conv):
            return jnp.mean(jax.vmap(conv)(images + noise) ** 2)

        value, grads = eqx.filter_value_and_grad(loss)(conv)
        return eqx.apply_updates(conv, jax.tree.map(lambda g: -0.1 * g, grads)), value

    return step, conv, jnp.ones((5, 1, 8, 8)), jax.random.key(1)


@case(_BROADCAST)
def one_key_repeated_for_each_example():
    class Classifier(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, x, key):
            x = x + 0.1 * jax.random.normal(key, x.shape)  # expect: key-broadcast
            return self.linear(x)

    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        keys = jnp.tile(key, (x.shape[0], 1))

        def loss(model):
            return cross_entropy(jax.vmap(model)(x, keys), y)

        return _updated(model, opt_state, loss)

    model = Classifier(eqx.nn.Linear(4, 3, key=jax.random.key(0)))
    return step, model, _trained(model), *batch(), jax.random.PRNGKey(1)


@case(_BROADCAST)
def the_noise_of_a_variational_autoencoder():
    class VAE(eqx.Module):
        encoder: eqx.nn.Linear
        decoder: eqx.nn.Linear

        def __call__(self, x, key):
            mean, log_std = jnp.split(self.encoder(x), 2)
            noise = jax.random.normal(key, mean.shape)  # expect: key-broadcast
            z = mean + jnp.exp(log_std) * noise
            return self.decoder(z), mean, log_std

    one, two = jax.random.split(jax.random.key(0))
    model = VAE(eqx.nn.Linear(4, 6, key=one), eqx.nn.Linear(3, 4, key=two))

    @eqx.filter_jit
    def step(model, opt_state, x, key):
        def loss(model):
            out, mean, log_std = jax.vmap(model, in_axes=(0, None))(x, key)
            divergence = mean**2 + jnp.exp(2 * log_std) - 2 * log_std
            return jnp.mean((out - x) ** 2) + jnp.mean(divergence)

        return _updated(model, opt_state, loss)

    return step, model, _trained(model), batch()[0], jax.random.key(1)


@case(_BROADCAST)
def one_noise_for_a_batch_of_diffusion_times():
    model = eqx.nn.MLP(5, 4, 8, 1, key=jax.random.key(0))

    @eqx.filter_jit
    def step(model, opt_state, x, key):
        t_key, noise_key = jax.random.split(key)
        t = jax.random.uniform(t_key, (x.shape[0], 1))
        noise = jax.random.normal(noise_key, (1, x.shape[1]))  # expect: key-broadcast
        noisy = jnp.sqrt(1 - t) * x + jnp.sqrt(t) * noise

        def loss(model):
            predicted = jax.vmap(model)(jnp.concatenate([noisy, t], axis=1))
            return jnp.mean((predicted - noise) ** 2)

        return _updated(model, opt_state, loss)

    return step, model, _trained(model), batch()[0], jax.random.key(1)


@case(_BROADCAST, args={"key": np.array([0, 1], np.uint32)})
def a_treadle_step_with_its_key_in_args():
    def loss_fn(model, example, key, args):
        x, y = example
        x = x + 0.1 * jax.random.normal(args["key"], x.shape)  # expect: key-broadcast
        return cross_entropy(model(x, key), y)

    step = treadle.TrainStep(loss_fn, OPTIMIZER)
    return step, step.init(net()[0], key=jax.random.key(0)), batch()


@case(_BROADCAST)
def one_mask_in_microbatches():
    @jax.jit
    def step(p, x, y, key):
        def body(total, part):
            x, y, key = part
            noise = jax.random.normal(key, x.shape[1:])  # expect: key-broadcast

            def loss(p):
                h = jax.nn.relu((x + noise) @ p["w1"] + p["b1"])
                return cross_entropy(h @ p["w2"] + p["b2"], y)

            return jax.tree.map(jnp.add, total, jax.grad(loss)(p)), None

        parts = x.reshape(3, -1, 4), y.reshape(3, -1), jax.random.split(key, 3)
        grads, _ = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, p), parts)
        return jax.tree.map(lambda p, g: p - 0.1 * g / 3, p, grads)

    return step, params(), *batch(), jax.random.key(0)


@case(_BROADCAST)
def the_same_on_every_device():
    mesh = jax.make_mesh((1,), ("data",))
    spec = jax.sharding.PartitionSpec

    def loss(w, x, key):
        x = x + jax.random.normal(key, x.shape)  # expect: key-broadcast
        return jax.lax.pmean(jnp.mean((x @ w) ** 2), "data")

    mapped = jax.shard_map(
        loss, mesh=mesh, in_specs=(spec(), spec("data"), spec()), out_specs=spec(), check_vma=False
    )
    sharded = jax.device_put(batch()[0], jax.sharding.NamedSharding(mesh, spec("data")))

    @jax.jit
    def step(w, x, key):
        return w - 0.1 * jax.grad(mapped)(w, x, key)

    return step, jnp.ones((4, 2)), sharded, jax.random.key(0)


@case(_BROADCAST)
def a_list_of_one_key():
    @jax.jit
    def step(p, x, y, key):
        keys = jnp.stack([key] * x.shape[0])

        def noisy(x, key):
            scale = jnp.array([0.1, 0.2, 0.3, 0.4])
            return x + scale * jax.random.normal(key, x.shape)  # expect: key-broadcast

        def loss(p):
            h = jax.nn.relu(jax.vmap(noisy)(x, keys) @ p["w1"] + p["b1"])
            return cross_entropy(h @ p["w2"] + p["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    return step, params(), *batch(), jax.random.key(0)


@case(_BROADCAST)
def noise_that_can_be_switched_off():
    @jax.jit
    def step(w, x, key, train):
        noise = jax.lax.cond(
            train,
            lambda: jax.random.normal(key, (4,)),  # expect: key-broadcast
            lambda: jnp.zeros(4),
        )
        return w - 0.1 * jax.grad(lambda w: jnp.mean(((x + noise) @ w) ** 2))(w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0), True


@case(_BROADCAST)
def an_epoch_of_batches_in_a_scan():
    @jax.jit
    def epoch(p, xs, ys, key):
        def body(p, part):
            x, y, key = part
            x = x * jax.random.bernoulli(key, 0.9, (1, x.shape[1]))  # expect: key-broadcast

            def loss(p):
                h = jax.nn.relu(x @ p["w1"] + p["b1"])
                return cross_entropy(h @ p["w2"] + p["b2"], y)

            value, grads = jax.value_and_grad(loss)(p)
            return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

        return jax.lax.scan(body, p, (xs, ys, jax.random.split(key, 3)))

    return epoch, params(), jnp.ones((3, 6, 4)), jnp.zeros((3, 6), jnp.int32), jax.random.key(0)


@case(_BROADCAST)
def one_mask_on_the_hidden_state_of_a_recurrent_network():
    @jax.jit
    def step(p, x, y, key):
        mask = jax.random.bernoulli(key, 0.8, (8,))  # expect: key-broadcast

        def loss(p):
            def body(h, x):
                return jnp.tanh(x @ p["w1"] + (h * mask) @ p["w"]), None

            h, _ = jax.lax.scan(body, jnp.zeros((x.shape[1], 8)), x)
            logits = jax.nn.log_softmax(h @ p["w2"])
            return -jnp.mean(logits[jnp.arange(y.shape[0]), y])

        value, grads = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    weights = {"w1": jnp.ones((4, 8)), "w": jnp.ones((8, 8)), "w2": jnp.ones((8, 3))}
    return step, weights, jnp.ones((5, 6, 4)), batch()[1], jax.random.key(0)


@case(_BROADCAST)
def a_simulation_of_many_particles():
    @jax.jit
    def step(state, key):
        mean, covariance = jnp.zeros(3), jnp.eye(3)
        kick = jax.random.multivariate_normal(key, mean, covariance)  # expect: key-broadcast
        velocity = state["velocity"] - 0.1 * state["place"] + kick
        return {"place": state["place"] + velocity, "velocity": velocity}

    state = {"place": jnp.ones((7, 3)), "velocity": jnp.zeros((7, 3))}
    return step, state, jax.random.key(0)


@case(_BROADCAST)
def images_made_alike_before_noise():
    @jax.jit
    def augment(images, mean, std, key):
        images = (images - mean) / std
        return images + jax.random.normal(key, images.shape[1:])  # expect: key-broadcast

    return augment, jnp.ones((5, 8, 8, 3)), jnp.zeros(3), jnp.ones(3), jax.random.key(0)


@case(_BROADCAST)
def examples_of_each_device():
    @functools.partial(jax.pmap, axis_name="devices")
    def step(w, x, key):
        x = x + jax.random.normal(key, x.shape[1:])  # expect: key-broadcast
        grads = jax.grad(lambda w: jnp.mean((x @ w) ** 2))(w)
        return w - 0.1 * jax.lax.pmean(grads, "devices")

    keys = jax.random.split(jax.random.key(0), 1)
    return jax.jit(step), jnp.ones((1, 4, 2)), jnp.ones((1, 6, 4)), keys


@case(_BROADCAST, needs="flax")
def flax_a_mask_shared_over_the_first_axis():
    import flax.linen as nn
    from flax.training import train_state

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(8)(x))
            rest = {"deterministic": False, "broadcast_dims": (0,)}
            x = nn.Dropout(0.5, **rest)(x)  # expect: key-broadcast
            return nn.Dense(3)(x)

    model = Model()
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = model.init(rngs, batch()[0])["params"]
    state = train_state.TrainState.create(apply_fn=model.apply, params=variables, tx=OPTIMIZER)

    @jax.jit
    def step(state, x, y, key):
        def loss_fn(variables):
            logits = state.apply_fn({"params": variables}, x, rngs={"dropout": key})
            return cross_entropy(logits, y)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    return step, state, *batch(), jax.random.key(2)


@case(_BROADCAST, needs="haiku")
def haiku_apply_mapped_with_one_key():
    import haiku as hk

    def forward(x):
        x = jax.nn.relu(hk.Linear(8)(x))
        x = hk.dropout(hk.next_rng_key(), 0.5, x)  # expect: key-broadcast
        return hk.Linear(3)(x)

    model = hk.transform(forward)
    variables = model.init(jax.random.PRNGKey(0), batch()[0][0])

    @jax.jit
    def step(variables, opt_state, key, x, y):
        def loss_fn(variables):
            logits = jax.vmap(model.apply, in_axes=(None, None, 0))(variables, key, x)
            return cross_entropy(logits, y)

        grads = jax.grad(loss_fn)(variables)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return optax.apply_updates(variables, updates), opt_state

    return step, variables, OPTIMIZER.init(variables), jax.random.PRNGKey(1), *batch()


# -- right ----------------------------------------------------------------------------------------


@case(_BROADCAST)
def right_a_key_for_each_example():
    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        keys = jax.random.split(key, x.shape[0])

        def loss(model):
            return cross_entropy(jax.vmap(model)(x, keys), y)

        return _updated(model, opt_state, loss)

    model = _OneDropout(jax.random.key(0))
    return step, model, _trained(model), *batch(), jax.random.key(1)


@case(_BROADCAST)
def right_drawn_for_the_whole_batch():
    @jax.jit
    def step(w, x, key):
        noise_key, keep_key = jax.random.split(key)
        x = x + 0.1 * jax.random.normal(noise_key, x.shape)
        return _descent(w, x * jax.random.bernoulli(keep_key, 0.9, x.shape))

    return step, jnp.ones((4, 2)), batch()[0], jax.random.PRNGKey(0)


@case(_BROADCAST)
def right_mixup_and_cutmix_with_one_share():
    conv = eqx.nn.Conv2d(1, 2, 3, key=jax.random.key(0))

    @eqx.filter_jit
    def step(conv, images, key):
        share_key, order_key, place_key = jax.random.split(key, 3)
        share = jax.random.beta(share_key, 1.0, 1.0)
        order = jax.random.permutation(order_key, images.shape[0])
        mixed = share * images + (1 - share) * images[order]
        row, column = jax.random.randint(place_key, (2,), 0, 8)
        rows, columns = jnp.abs(jnp.arange(8) - row) < 3, jnp.abs(jnp.arange(8) - column) < 3
        box = rows[:, None] & columns[None, :]
        cut = jnp.where(box, images[order], mixed)

        def loss(conv):
            return jnp.mean(jax.vmap(conv)(cut) ** 2)

        value, grads = eqx.filter_value_and_grad(loss)(conv)
        return eqx.apply_updates(conv, jax.tree.map(lambda g: -0.1 * g, grads)), value

    return step, conv, jnp.ones((5, 1, 8, 8)), jax.random.key(1)


@case(_BROADCAST)
def right_variational_weights():
    def sampled(p, key):
        keys = jax.random.split(key, len(p))
        return {
            name: p[name] + 0.1 * jax.random.normal(each, p[name].shape)
            for name, each in zip(p, keys, strict=True)
        }

    @jax.jit
    def step(p, x, y, key):
        def loss(p):
            q = sampled(p, key)
            h = jax.nn.relu(x @ q["w1"] + q["b1"])
            return cross_entropy(h @ q["w2"] + q["b2"], y)

        value, grads = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    return step, params(), *batch(), jax.random.key(0)


@case(_BROADCAST)
def right_one_mask_for_all_steps_of_a_sequence():
    cell = eqx.nn.GRUCell(2, 4, key=jax.random.key(0))

    @eqx.filter_jit
    def step(cell, x, key):
        mask = jax.random.bernoulli(key, 0.8, (x.shape[0], 1, x.shape[2]))

        def loss(cell):
            def run(x):
                return jax.lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(4), x)[0]

            return jnp.mean(jax.vmap(run)(x * mask / 0.8) ** 2)

        value, grads = eqx.filter_value_and_grad(loss)(cell)
        return eqx.apply_updates(cell, jax.tree.map(lambda g: -0.1 * g, grads)), value

    return step, cell, jnp.ones((3, 5, 2)), jax.random.key(1)


@case(_BROADCAST)
def right_whole_channels_are_dropped():
    @jax.jit
    def step(w, images, key):
        shape = (images.shape[0], 1, 1, images.shape[3])
        images = images * jax.random.bernoulli(key, 0.8, shape)
        return w - 0.1 * jax.grad(lambda w: jnp.mean((images @ w) ** 2))(w)

    return step, jnp.ones((3, 2)), jnp.ones((5, 4, 4, 3)), jax.random.key(0)


@case(_BROADCAST)
def right_random_features():
    @jax.jit
    def step(w, x, y, key):
        one, two = jax.random.split(key)
        matrix = jnp.eye(4, 6) + jax.random.normal(one, (4, 6))
        phase = jax.random.uniform(two, (6,), maxval=6.28)
        features = jnp.cos(x @ matrix + phase)
        return w - 0.1 * jax.grad(lambda w: cross_entropy(features @ w, y))(w)

    return step, jnp.ones((6, 3)), *batch(), jax.random.key(0)


@case(_BROADCAST)
def right_a_model_made_inside_of_the_step():
    class Shifted(eqx.Module):
        shift: jax.Array
        model: _OneDropout

        def __init__(self, key):
            one, two = jax.random.split(key)
            self.shift = jax.random.normal(one, (4,))
            self.model = _OneDropout(two)

        def __call__(self, x, key):
            return self.model(x + self.shift, key)

    @eqx.filter_jit
    def loss_at_the_start(x, y, key):
        init_key, key = jax.random.split(key)
        model = Shifted(init_key)
        keys = jax.random.split(key, x.shape[0])
        return cross_entropy(jax.vmap(model)(x, keys), y)

    return loss_at_the_start, *batch(), jax.random.key(0)


@case(_BROADCAST)
def right_an_ensemble_over_one_batch():
    models = eqx.filter_vmap(_OneDropout)(jax.random.split(jax.random.key(0), 2))

    @eqx.filter_jit
    def step(models, x, y, key):
        def loss(model, key):
            keys = jax.random.split(key, x.shape[0])
            return cross_entropy(jax.vmap(model)(x, keys), y)

        def total(models):
            return jnp.sum(eqx.filter_vmap(loss)(models, jax.random.split(key, 2)))

        value, grads = eqx.filter_value_and_grad(total)(models)
        return eqx.apply_updates(models, jax.tree.map(lambda g: -0.1 * g, grads)), value

    return step, models, *batch(), jax.random.key(1)


@case(_BROADCAST)
def right_one_example():
    @eqx.filter_jit
    def sample(model, x, key):
        return jax.vmap(functools.partial(model, x))(jax.random.split(key, 3))

    return sample, _OneDropout(jax.random.key(0)), batch()[0][0], jax.random.key(1)


@case(_BROADCAST)
def right_keys_of_devices():
    mesh = jax.make_mesh((1,), ("data",))
    spec = jax.sharding.PartitionSpec

    def loss(w, x, key):
        key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        x = x + jax.random.normal(key, x.shape)
        return jax.lax.pmean(jnp.mean((x @ w) ** 2), "data")

    mapped = jax.shard_map(
        loss, mesh=mesh, in_specs=(spec(), spec("data"), spec()), out_specs=spec(), check_vma=False
    )
    sharded = jax.device_put(batch()[0], jax.sharding.NamedSharding(mesh, spec("data")))

    @jax.jit
    def step(w, x, key):
        return w - 0.1 * jax.grad(mapped)(w, x, key)

    return step, jnp.ones((4, 2)), sharded, jax.random.key(0)


@case(_BROADCAST)
def right_a_perturbation_that_is_learned():
    @jax.jit
    def attack(w, x, key):
        def turn(shift, _):
            grads = jax.grad(lambda shift: jnp.mean(((x + shift) @ w) ** 2))(shift)
            return shift + 0.1 * jnp.sign(grads), None

        start = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        return jax.lax.scan(turn, start, length=3)[0]

    return attack, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


@case(_BROADCAST)
def right_gradients_of_each_example_of_variational_biases():
    @jax.jit
    def step(p, x, y, key):
        noise = jax.random.normal(key, (8,))

        def loss(p, x, y):
            h = jax.nn.relu(x @ p["w1"] + p["b1"] + jnp.exp(p["log_std"]) * noise)
            return cross_entropy(h @ p["w2"] + p["b2"], y)

        grads = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(p, x, y)
        return jax.tree.map(lambda p, g: p - 0.1 * jnp.mean(g, 0), p, grads)

    return step, {**params(), "log_std": jnp.zeros(8)}, *batch(), jax.random.key(0)


@case(_BROADCAST)
def right_negative_samples_for_the_whole_batch():
    @jax.jit
    def step(p, x, y, key):
        others = jax.random.randint(key, (7,), 0, 20)

        def loss(p):
            h = x @ p["w"]
            logits = h @ p["classes"][others].T - jnp.log1p(others.astype(jnp.float32))
            logits = jnp.where(others[None] == y[:, None], -1e9, logits)
            own = jnp.sum(h * p["classes"][y], axis=1)
            return jnp.mean(jax.nn.logsumexp(logits, axis=1) - own)

        value, grads = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    return step, {"w": jnp.ones((4, 8)), "classes": jnp.ones((20, 8))}, *batch(), jax.random.key(0)


@case(_BROADCAST)
def right_candidates_left_out_of_a_contrastive_loss():
    @jax.jit
    def step(w, x, key):
        noise_key, keep_key = jax.random.split(key)
        other = x + 0.1 * jax.random.normal(noise_key, x.shape)
        keep = jax.random.bernoulli(keep_key, 0.9, (x.shape[0],))
        own = jnp.eye(x.shape[0], dtype=bool)

        def loss(w):
            scores = jnp.where(keep | own, (x @ w) @ (other @ w).T, -1e9)
            return cross_entropy(scores, jnp.arange(x.shape[0]))

        return w - 0.1 * jax.grad(loss)(w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


@case(_BROADCAST)
def right_time_first_and_one_mask_for_all_steps():
    @jax.jit
    def step(p, x, lengths, y, key):
        mask = jax.random.bernoulli(key, 0.8, (1, x.shape[1], x.shape[2]))

        def loss(p):
            h = x * mask
            scores = jnp.einsum("tbd,sbd->bts", h @ p["query"], h @ p["key"])
            late = jnp.arange(x.shape[0])[None] >= lengths[:, None]
            scores = jnp.where(late[:, None], -1e9, scores)
            out = jnp.einsum("bts,sbd->bd", jax.nn.softmax(scores), h)
            return cross_entropy(out @ p["last"], y)

        value, grads = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    weights = {"query": jnp.ones((4, 4)), "key": jnp.ones((4, 4)), "last": jnp.ones((4, 3))}
    return step, weights, jnp.ones((5, 6, 4)), jnp.full(6, 5), batch()[1], jax.random.key(0)


@case(_BROADCAST)
def right_steps_of_one_sequence_are_dropped():
    @jax.jit
    def step(p, x, key):
        x = x * jax.random.bernoulli(key, 0.8, (x.shape[0], 1))

        def loss(p):
            def body(h, x):
                h = p["decay"] * h + x
                return h, h * p["out"]

            return jnp.mean(jax.lax.scan(body, jnp.zeros(4), x)[1] ** 2)

        value, grads = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, grads), value

    return step, {"decay": jnp.ones(4), "out": jnp.ones(4)}, jnp.ones((5, 4)), jax.random.key(0)


@case(_BROADCAST)
def right_one_sequence_that_attends_to_itself():
    @eqx.filter_jit
    def encode(attention, x, key):
        x = x * jax.random.bernoulli(key, 0.8, (1, x.shape[1]))
        return attention(x, x, x)

    attention = eqx.nn.MultiheadAttention(2, 4, key=jax.random.key(0))
    return encode, attention, jnp.ones((5, 4)), jax.random.key(1)


@case(_BROADCAST)
def right_one_signal_whose_samples_are_dropped():
    @eqx.filter_jit
    def filtered(conv, signal, key):
        return conv(signal * jax.random.bernoulli(key, 0.8, (1, signal.shape[1])))

    conv = eqx.nn.Conv1d(2, 3, 3, key=jax.random.key(0))
    return filtered, conv, jnp.ones((2, 9)), jax.random.key(1)


@case(_BROADCAST)
def right_features_first():
    @jax.jit
    def step(w, x, key):
        x = x * jax.random.bernoulli(key, 0.8, (1, x.shape[1]))
        return w - 0.1 * jax.grad(lambda w: jnp.mean((w @ x) ** 2))(w)

    return step, jnp.ones((2, 4)), batch()[0].T, jax.random.key(0)


@case(_BROADCAST)
def right_one_image_of_which_channels_are_dropped():
    @jax.jit
    def features(kernel, image, key):
        image_key, kernel_key = jax.random.split(key)
        image = image * jax.random.bernoulli(image_key, 0.8, (1, 1, 3))
        kernel = kernel + jax.random.normal(kernel_key, (1, 1, 1, 4))
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            image[None], kernel, (1, 1), "SAME", dimension_numbers=numbers
        )

    return features, jnp.ones((3, 3, 3, 4)), jnp.ones((8, 8, 3)), jax.random.key(0)


@case(_BROADCAST)
def right_weights_of_which_some_are_dropped():
    @jax.jit
    def step(w, x, key):
        keep = jax.random.bernoulli(key, 0.8, (1, *w.shape[1:]))

        def loss(w):
            return jnp.mean(jnp.einsum("bd,hdk->bhk", x, w * keep) ** 2)

        return w - 0.1 * jax.grad(loss)(w)

    return step, jnp.ones((2, 4, 3)), batch()[0], jax.random.key(0)


@case(_BROADCAST)
def right_inputs_of_a_model_are_cut_off():
    @eqx.filter_jit
    def predict(linear, x, key):
        keep = jax.random.bernoulli(key, 0.8, (1, 4))
        thinned = eqx.tree_at(lambda m: m.weight, linear, linear.weight * keep)
        return jax.vmap(thinned)(x)

    return predict, eqx.nn.Linear(4, 3, key=jax.random.key(0)), batch()[0], jax.random.key(1)


@case(_BROADCAST)
def right_made_by_initializers():
    @jax.jit
    def start(w, x, y, key):
        bias = jax.nn.initializers.normal(0.1)(key, (3,))
        value, grads = jax.value_and_grad(lambda b: cross_entropy(x @ w + b, y))(bias)
        return bias - 0.1 * grads, value

    return start, jnp.ones((4, 3)), *batch(), jax.random.key(0)


@case(_BROADCAST)
def right_images_moved_by_one_map():
    @jax.jit
    def step(w, images, key):
        turn = jnp.eye(2) + 0.1 * jax.random.normal(key, (2, 2))
        grid = jnp.stack(jnp.meshgrid(jnp.arange(6.0), jnp.arange(6.0), indexing="ij"))
        rows, columns = turn @ grid.reshape(2, -1)

        def moved(image):
            return jax.scipy.ndimage.map_coordinates(image, [rows, columns], order=1)

        return w - 0.1 * jax.grad(lambda w: jnp.mean((jax.vmap(moved)(images) @ w) ** 2))(w)

    return step, jnp.ones((36, 2)), jnp.ones((5, 6, 6)), jax.random.key(0)


@case(_BROADCAST)
def right_a_random_direction_of_all_parameters():
    def loss_fn(model, x, y):
        return jnp.mean((jnp.tanh(x @ model["w"] + model["b"]) - y) ** 2)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(model, x, y, key):
        for_w, for_b = jax.random.split(key)
        direction = {
            "w": jax.random.rademacher(for_w, (4, 3)).astype(jnp.float32),
            "b": jax.random.rademacher(for_b, (3,)).astype(jnp.float32),
        }
        _, slope = jax.jvp(lambda model: loss_fn(model, x, y), (model,), (direction,))
        return jax.tree.map(lambda p, v: p - 0.1 * slope * v, model, direction)

    model = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    return step, model, jnp.ones((6, 4)), jnp.ones((6, 3)), jax.random.key(2)


@case(_BROADCAST)
def right_a_constant_key_is_another_rules():
    @functools.partial(jax.jit, donate_argnums=0)
    def step(w, x):
        key = jax.random.key(0)  # treadle: ignore[key-constant]
        x = x * jax.random.bernoulli(key, 0.9, x.shape[1:]).astype(x.dtype)[None]
        return _descent(w, x)

    return step, jnp.ones(4), jnp.ones((6, 4))


@case(_BROADCAST, needs="flax")
def flax_right_attention_as_it_comes():
    import flax.linen as nn
    from flax.training import train_state

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, deterministic=False)
            x = x + attention(x, x)
            x = nn.Dropout(0.1, broadcast_dims=(1,), deterministic=False)(x)
            return nn.Dense(3)(x.mean(1))

    model, x = Model(), jnp.ones((6, 5, 4))
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = model.init(rngs, x)["params"]
    state = train_state.TrainState.create(apply_fn=model.apply, params=variables, tx=OPTIMIZER)

    @jax.jit
    def step(state, x, y, key):
        def loss_fn(variables):
            logits = state.apply_fn({"params": variables}, x, rngs={"dropout": key})
            return cross_entropy(logits, y)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    return step, state, x, batch()[1], jax.random.key(2)


@case(_BROADCAST)
def one_mask_for_all_members_of_an_ensemble():
    class Model(eqx.Module):
        first: eqx.nn.Linear
        last: eqx.nn.Linear

        def __init__(self, key):
            one, two = jax.random.split(key)
            self.first = eqx.nn.Linear(4, 8, key=one)
            self.last = eqx.nn.Linear(8, 3, key=two)

        def __call__(self, x, key):
            h = jax.nn.relu(self.first(x))
            keep = jax.random.bernoulli(key, 0.5, h.shape)  # expect: key-broadcast
            return self.last(jnp.where(keep, h, 0.0))

    @eqx.filter_jit
    def step(models, x, y, key):
        keys = jax.random.split(key, x.shape[0])

        def one(model):
            def loss(model):
                return cross_entropy(jax.vmap(model)(x, keys), y)

            grads = eqx.filter_grad(loss)(model)
            return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads))

        return eqx.filter_vmap(one)(models)

    models = eqx.filter_vmap(Model)(jax.random.split(jax.random.key(0), 3))
    return step, models, *batch(), jax.random.key(1)
