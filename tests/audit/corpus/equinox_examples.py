"""Right steps in the manner of Equinox's own examples, and others that people write."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import treadle

from . import case
from ._models import OPTIMIZER, Net, batch, cross_entropy, net, params

_RIGHT = "right steps"


def _trained(model):
    return OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))


def _images(size=2, channels=1, width=8):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(size, channels, width, width)), jnp.float32)
    return x, jnp.asarray(rng.integers(0, 3, size), jnp.int32)


@case(_RIGHT)
def a_convolutional_classifier():
    class CNN(eqx.Module):
        layers: list

        def __init__(self, key):
            one, two, three = jax.random.split(key, 3)
            self.layers = [
                eqx.nn.Conv2d(1, 3, kernel_size=3, key=one),
                eqx.nn.MaxPool2d(kernel_size=2),
                jax.nn.relu,
                jnp.ravel,
                eqx.nn.Linear(75, 16, key=two),
                jax.nn.sigmoid,
                eqx.nn.Linear(16, 3, key=three),
                jax.nn.log_softmax,
            ]

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    def loss(model, x, y):
        predicted = jax.vmap(model)(x)
        return -jnp.mean(jnp.take_along_axis(predicted, jnp.expand_dims(y, 1), axis=1))

    model = CNN(jax.random.key(0))

    @eqx.filter_jit
    def make_step(model, opt_state, x, y):
        value, grads = eqx.filter_value_and_grad(loss)(model, x, y)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), opt_state, value

    return make_step, model, _trained(model), *_images()


@case(_RIGHT)
def a_recurrent_network():
    class RNN(eqx.Module):
        hidden: int
        cell: eqx.Module
        linear: eqx.nn.Linear
        bias: jax.Array

        def __init__(self, key):
            one, two = jax.random.split(key)
            self.hidden = 6
            self.cell = eqx.nn.GRUCell(2, 6, key=one)
            self.linear = eqx.nn.Linear(6, 1, use_bias=False, key=two)
            self.bias = jnp.zeros(1)

        def __call__(self, xs):
            def f(carry, x):
                return self.cell(x, carry), None

            out, _ = jax.lax.scan(f, jnp.zeros((self.hidden,)), xs)
            return jax.nn.sigmoid(self.linear(out) + self.bias)

    @eqx.filter_value_and_grad
    def loss(model, x, y):
        predicted = jax.vmap(model)(x)
        return -jnp.mean(y * jnp.log(predicted) + (1 - y) * jnp.log(1 - predicted))

    model = RNN(jax.random.PRNGKey(5678))

    @eqx.filter_jit
    def make_step(model, x, y, opt_state):
        value, grads = loss(model, x, y)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return value, eqx.apply_updates(model, updates), opt_state

    return make_step, model, jnp.ones((3, 5, 2)), jnp.ones((3, 1)), _trained(model)


@case(_RIGHT)
def a_vision_transformer():
    class Block(eqx.Module):
        norm: eqx.nn.LayerNorm
        attention: eqx.nn.MultiheadAttention
        linear: eqx.nn.Linear
        dropout: eqx.nn.Dropout

        def __init__(self, key):
            one, two = jax.random.split(key)
            self.norm = eqx.nn.LayerNorm(8)
            self.attention = eqx.nn.MultiheadAttention(2, 8, dropout_p=0.1, key=one)
            self.linear = eqx.nn.Linear(8, 8, key=two)
            self.dropout = eqx.nn.Dropout(0.1)

        def __call__(self, x, enable_dropout, key):
            one, two = jax.random.split(key)
            h = jax.vmap(self.norm)(x)
            x = x + self.attention(h, h, h, inference=not enable_dropout, key=one)
            h = jax.nn.gelu(jax.vmap(self.linear)(x))
            return x + self.dropout(h, inference=not enable_dropout, key=two)

    class ViT(eqx.Module):
        patches: eqx.nn.Linear
        positions: jax.Array
        token: jax.Array
        blocks: list[Block]
        dropout: eqx.nn.Dropout
        head: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 6)
            self.patches = eqx.nn.Linear(16, 8, key=keys[0])
            self.positions = jax.random.normal(keys[1], (5, 8))
            self.token = jax.random.normal(keys[2], (1, 8))
            self.blocks = [Block(each) for each in jax.random.split(keys[3], 2)]
            self.dropout = eqx.nn.Dropout(0.1)
            self.head = eqx.nn.Linear(8, 3, key=keys[4])

        def __call__(self, x, enable_dropout, key):
            x = x.reshape(4, 16)
            x = jnp.concatenate([self.token, jax.vmap(self.patches)(x)]) + self.positions
            first, *rest = jax.random.split(key, num=len(self.blocks) + 1)
            x = self.dropout(x, inference=not enable_dropout, key=first)
            for block, each in zip(self.blocks, rest, strict=True):
                x = block(x, enable_dropout, key=each)
            return self.head(x[0])

    model = ViT(jax.random.PRNGKey(2003))

    @eqx.filter_value_and_grad
    def grads_of(model, images, labels, key):
        logits = jax.vmap(model, in_axes=(0, None, 0))(images, True, key)
        return cross_entropy(logits, labels)

    @eqx.filter_jit
    def step_model(model, optimizer_state, images, labels, key):
        loss, grads = grads_of(model, images, labels, key)
        updates, optimizer_state = OPTIMIZER.update(grads, optimizer_state, model)
        return eqx.apply_updates(model, updates), optimizer_state, loss

    keys = jax.random.split(jax.random.key(1), 2)
    return step_model, model, OPTIMIZER.init(eqx.filter(model, eqx.is_array)), *_images(), keys


@case(_RIGHT)
def a_diffusion_model():
    model = eqx.nn.MLP(17, 16, 8, 1, key=jax.random.key(0))

    def single_loss(model, data, t, key):
        mean, std = data * jnp.exp(-0.5 * t), jnp.sqrt(jnp.maximum(1 - jnp.exp(-t), 1e-5))
        noise = jax.random.normal(key, data.shape)
        predicted = model(jnp.concatenate([mean + std * noise, t[None]]))
        return jnp.mean((predicted + noise / std) ** 2)

    def batch_loss(model, data, t1, key):
        size = data.shape[0]
        tkey, losskey = jax.random.split(key)
        losskey = jax.random.split(losskey, size)
        t = jax.random.uniform(tkey, (size,), minval=0, maxval=t1 / size)
        t = t + (t1 / size) * jnp.arange(size)
        return jnp.mean(jax.vmap(functools.partial(single_loss, model))(data, t, losskey))

    @eqx.filter_jit
    def make_step(model, data, t1, key, opt_state, opt_update):
        value, grads = eqx.filter_value_and_grad(batch_loss)(model, data, t1, key)
        updates, opt_state = opt_update(grads, opt_state)
        model = eqx.apply_updates(model, updates)
        return value, model, opt_state

    args = jnp.ones((4, 16)), 10.0, jax.random.PRNGKey(0), _trained(model), OPTIMIZER.update
    return make_step, model, *args


@case(_RIGHT)
def two_networks_against_each_other():
    one, two = jax.random.split(jax.random.key(0))
    generator = eqx.nn.MLP(4, 8, 8, 1, key=one)
    discriminator = eqx.nn.MLP(8, "scalar", 8, 1, key=two)

    def d_loss(discriminator, generator, real, key):
        fake = jax.vmap(generator)(jax.random.normal(key, (real.shape[0], 4)))
        of_real, of_fake = jax.vmap(discriminator)(real), jax.vmap(discriminator)(fake)
        return jnp.mean(jax.nn.softplus(-of_real) + jax.nn.softplus(of_fake))

    def g_loss(generator, discriminator, size, key):
        fake = jax.vmap(generator)(jax.random.normal(key, (size, 4)))
        return jnp.mean(jax.nn.softplus(-jax.vmap(discriminator)(fake)))

    @eqx.filter_jit
    def step(generator, discriminator, g_state, d_state, real, key):
        key, d_key, g_key = jax.random.split(key, 3)
        d_value, grads = eqx.filter_value_and_grad(d_loss)(discriminator, generator, real, d_key)
        updates, d_state = OPTIMIZER.update(grads, d_state)
        discriminator = eqx.apply_updates(discriminator, updates)
        size = real.shape[0]
        g_value, grads = eqx.filter_value_and_grad(g_loss)(generator, discriminator, size, g_key)
        updates, g_state = OPTIMIZER.update(grads, g_state)
        generator = eqx.apply_updates(generator, updates)
        return generator, discriminator, g_state, d_state, (d_value, g_value), key

    states = _trained(generator), _trained(discriminator)
    return step, generator, discriminator, *states, jnp.ones((4, 8)), jax.random.key(1)


@case(_RIGHT)
def a_frozen_layer():
    model = eqx.nn.MLP(4, 3, 8, 2, key=jax.random.key(0))
    spec = jax.tree.map(lambda _: False, model)
    spec = eqx.tree_at(lambda m: (m.layers[-1].weight, m.layers[-1].bias), spec, (True, True))

    @eqx.filter_jit
    def make_step(model, opt_state, x, y):
        @eqx.filter_value_and_grad
        def loss(diff_model, static_model):
            return cross_entropy(jax.vmap(eqx.combine(diff_model, static_model))(x), y)

        diff_model, static_model = eqx.partition(model, spec)
        value, grads = loss(diff_model, static_model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return make_step, model, OPTIMIZER.init(eqx.filter(model, spec)), *batch()


@case(_RIGHT)
def batch_norm_with_its_state():
    class Model(eqx.Module):
        norm: eqx.nn.BatchNorm
        spectral: eqx.nn.SpectralNorm
        last: eqx.nn.Linear

        def __init__(self, key):
            one, two, three = jax.random.split(key, 3)
            self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch")
            linear = eqx.nn.Linear(4, 8, key=one)
            self.spectral = eqx.nn.SpectralNorm(linear, weight_name="weight", key=two)
            self.last = eqx.nn.Linear(8, 3, key=three)

        def __call__(self, x, state):
            x, state = self.norm(x, state)
            x, state = self.spectral(x, state)
            return self.last(jax.nn.relu(x)), state

    model, state = eqx.nn.make_with_state(Model)(jax.random.key(0))

    def loss(model, state, x, y):
        mapped = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        logits, state = mapped(x, state)
        return cross_entropy(logits, y), state

    @eqx.filter_jit
    def make_step(model, state, opt_state, x, y):
        grads, state = eqx.filter_grad(loss, has_aux=True)(model, state, x, y)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), state, opt_state

    return make_step, model, state, _trained(model), *batch()


@case(_RIGHT)
def mixup():
    @eqx.filter_jit
    def step(model, opt_state, x, y, key):
        mix_key, order_key, dropout_key = jax.random.split(key, 3)
        share = jax.random.beta(mix_key, 0.2, 0.2)
        order = jax.random.permutation(order_key, x.shape[0])
        mixed = share * x + (1 - share) * x[order]

        def loss(model):
            logits = jax.vmap(model)(mixed, jax.random.split(dropout_key, x.shape[0]))
            return share * cross_entropy(logits, y) + (1 - share) * cross_entropy(logits, y[order])

        value, grads = eqx.filter_value_and_grad(loss)(model)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    return step, *net(), *batch(), jax.random.key(0)


@case(_RIGHT)
def remat_with_dropout_in_a_list_of_24_layers():
    class Block(eqx.Module):
        linear: eqx.nn.Linear
        dropout: eqx.nn.Dropout

        def __call__(self, x, key):
            return x + self.dropout(jax.nn.gelu(self.linear(x)), key=key)

    class Deep(eqx.Module):
        blocks: list[Block]

        def __call__(self, x, key):
            keys = jax.random.split(key, len(self.blocks))
            for block, each in zip(self.blocks, keys, strict=True):
                x = eqx.filter_checkpoint(block)(x, each)
            return x

    keys = jax.random.split(jax.random.key(0), 24)
    model = Deep([Block(eqx.nn.Linear(4, 4, key=k), eqx.nn.Dropout(0.1)) for k in keys])

    def loss_fn(model, example, key):
        x, y = example
        return cross_entropy(model(x, key), y)

    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)),
    )
    step = treadle.TrainStep(loss_fn, optimizer)
    return step, step.init(model, key=jax.random.key(1)), batch()


@case(_RIGHT)
def microbatches_in_a_scan():
    @jax.jit
    def step(p, x, y, key):
        def body(total, part):
            x, y, key = part

            def loss(p):
                x_ = x + 0.1 * jax.random.normal(key, x.shape)
                return cross_entropy(jax.nn.relu(x_ @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"], y)

            return jax.tree.map(jnp.add, total, jax.grad(loss)(p)), None

        parts = x.reshape(3, -1, 4), y.reshape(3, -1), jax.random.split(key, 3)
        grads, _ = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, p), parts)
        return jax.tree.map(lambda p, g: p - 0.1 * g / 3, p, grads)

    return step, params(), *batch(), jax.random.PRNGKey(0)


@case(_RIGHT)
def sampling_from_a_language_model():
    @jax.jit
    def sample(weights, token, key):
        def body(carry, _):
            token, key = carry
            key, sub = jax.random.split(key)
            token = jax.random.categorical(sub, weights[token])
            return (token, key), token

        _, tokens = jax.lax.scan(body, (token, key), length=5)
        return tokens

    return sample, jnp.ones((4, 4)), jnp.int32(0), jax.random.key(0)


@case(_RIGHT)
def rejection_in_a_while_loop():
    @jax.jit
    def step(w, x, key):
        def body(carry):
            _, key = carry
            key, sub = jax.random.split(key)
            return jax.random.normal(sub), key

        value, _ = jax.lax.while_loop(lambda carry: carry[0] < 0, body, (-1.0, key))
        return w - 0.01 * value * x.T @ (x @ w)

    return step, jnp.ones((4, 2)), batch()[0], jax.random.key(0)


@case(_RIGHT)
def keys_over_devices():
    mesh = jax.make_mesh((1,), ("data",))
    spec = jax.sharding.PartitionSpec

    def noisy(key, x):
        key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        return x + jax.random.normal(key, x.shape)

    mapped = jax.shard_map(
        noisy, mesh=mesh, in_specs=(spec(), spec("data")), out_specs=spec("data"), check_vma=False
    )
    sharded = jax.device_put(batch()[0], jax.sharding.NamedSharding(mesh, spec("data")))

    @jax.jit
    def step(w, x, key):
        return jnp.mean(mapped(key, x)) + w

    return step, jnp.ones((4, 2)), sharded, jax.random.key(0)


@case(_RIGHT)
def an_ensemble_of_treadle_steps():
    def loss_fn(model, example, key):
        x, y = example
        return cross_entropy(model(x, key), y)

    step = treadle.ensemble(treadle.TrainStep(loss_fn, OPTIMIZER), 2)
    return step, step.init(Net, key=jax.random.key(0)), batch()


@case(_RIGHT)
def a_target_network():
    def update(online, target, x):
        def loss(online):
            goal = jax.vmap(target)(x)
            return jnp.mean((jax.vmap(online)(x) - jax.lax.stop_gradient(goal)) ** 2)

        value, grads = eqx.filter_value_and_grad(loss)(online)
        online = eqx.apply_updates(online, jax.tree.map(lambda g: -0.1 * g, grads))
        target = jax.tree.map(
            lambda t, o: 0.99 * t + 0.01 * o if eqx.is_array(t) else t, target, online
        )
        return online, target, value

    one, two = jax.random.split(jax.random.key(0))
    nets = eqx.nn.MLP(4, 2, 8, 1, key=one), eqx.nn.MLP(4, 2, 8, 1, key=two)
    return eqx.filter_jit(update), *nets, batch()[0]


@case(_RIGHT)
def stochastic_depth_over_stacked_layers():
    keys = jax.random.split(jax.random.key(0), 3)
    layers = eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 4, key=key))(keys)

    @eqx.filter_jit
    def step(layers, x, y, key):
        def loss(layers):
            dynamic, static = eqx.partition(layers, eqx.is_array)

            def body(h, parts):
                layer, key = eqx.combine(parts[0], static), parts[1]
                keep = jax.random.bernoulli(key, 0.8)
                return jnp.where(keep, h + jax.vmap(layer)(h), h), None

            h, _ = jax.lax.scan(body, x, (dynamic, jax.random.split(key, 3)))
            return cross_entropy(h, y)

        value, grads = eqx.filter_value_and_grad(loss)(layers)
        return eqx.apply_updates(layers, jax.tree.map(lambda g: -0.1 * g, grads)), value

    return step, layers, *batch(), jax.random.key(1)
