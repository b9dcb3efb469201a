"""What options of a step must not do to each other, nor to what goes through a step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import treadle
from tests.helpers import Net, loss_fn, make_batch

KEY = jax.random.key(4)
ADAM = optax.adam(1e-2)


def quiet_loss(model, example, key):
    """Without draws."""
    x, y = example
    logits = eqx.nn.inference_mode(model)(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


@pytest.mark.parametrize("nonfinite", ["raise", "skip", "ignore"])
def test_a_gradient_goes_through_a_step(nonfinite):
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    step = treadle.TrainStep(quiet_loss, optimizer, nonfinite=nonfinite)
    state = step.init(Net, key=KEY)

    def after(rate):
        opt_state = state.opt_state._replace(hyperparams={"learning_rate": rate})
        new, _ = step.pure(state.replace(opt_state=opt_state), make_batch())
        return step.pure(new, make_batch())[1]["loss"]

    slope = jax.grad(after)(jnp.float32(0.1))
    measured = (after(jnp.float32(0.11)) - after(jnp.float32(0.09))) / 0.02
    np.testing.assert_allclose(slope, measured, rtol=1e-2)


OTHERS = {
    "ema": {"ema": 0.9},
    "fp16": {"precision": "fp16"},
    "skip": {"nonfinite": "skip"},
}


@pytest.mark.parametrize("option", OTHERS)
def test_a_state_of_other_options_is_refused_both_ways(option):
    plain = treadle.TrainStep(loss_fn, ADAM)
    other = treadle.TrainStep(loss_fn, ADAM, **OTHERS[option])
    with pytest.raises(treadle.TreeError, match="and the state lacks one"):
        other(plain.init(Net, key=KEY), make_batch())
    with pytest.raises(treadle.TreeError, match=r"does not keep .*and the state has one"):
        plain(other.init(Net, key=KEY), make_batch())


def small_loss(model, example, key):
    return quiet_loss(model, example, key) * jnp.float32(1e-6)


def moved(optimizer, precision):
    step = treadle.TrainStep(small_loss, optimizer, precision=precision)
    model = Net(KEY)
    state, _ = step(step.init(model, key=KEY), make_batch())
    return np.asarray(state.model.last.weight - model.last.weight)


def test_gradients_that_an_optimizer_asks_for_are_scaled_in_float16_too():
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    sam = optax.contrib.sam(optax.sgd(1e6), adversary, opaque_mode=True)
    np.testing.assert_allclose(moved(sam, "fp16"), moved(sam, None), rtol=0.02, atol=2e-3)


def asking(params_of_value_fn):
    """An optimizer whose update is the gradient of `value_fn`."""

    def update(updates, state, params=None, *, value_fn, **extra):
        return jax.tree.map(lambda g: -1e6 * g, params_of_value_fn(value_fn)(params)), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def test_the_derivative_of_value_fn_does_not_vanish_in_float16():
    reverse = asking(lambda f: jax.grad(lambda p: f(p)))
    np.testing.assert_allclose(moved(reverse, "fp16"), moved(reverse, None), rtol=0.02, atol=2e-3)


class Masked(eqx.Module):
    lin: eqx.nn.Linear
    mask: jax.Array

    def __init__(self, key):
        self.lin = eqx.nn.Linear(6, 2, key=key)
        self.mask = jnp.array([0.0, -jnp.inf])

    def __call__(self, x):
        return jax.nn.logsumexp(self.lin(x) + jax.lax.stop_gradient(self.mask))


def test_an_infinity_in_a_leaf_stays_one_in_the_average():
    def loss(model, example, key):
        return model(example[0]) ** 2

    step = treadle.TrainStep(loss, ADAM, ema=0.9)
    state = step.init(Masked, key=KEY)
    for seed in range(2):
        state, _ = step(state, make_batch(seed=seed))
    np.testing.assert_array_equal(state.ema_model.mask, [0.0, -np.inf])
    assert np.isfinite(state.ema_model.lin.weight).all()


def test_a_hyperparameter_kept_as_an_integer_does_not_lose_a_fraction():
    step = treadle.TrainStep(loss_fn, optax.inject_hyperparams(optax.sgd)(learning_rate=1))
    with pytest.raises(treadle.ArgumentValueError, match=r"keeps an integer .*learning_rate=1.0\)"):
        step.init(Net, key=KEY, hyperparams={"learning_rate": 0.5})
    state = step.init(Net, key=KEY, hyperparams={"learning_rate": 2.0})
    assert int(state.opt_state.hyperparams["learning_rate"]) == 2


# -- classes under a precision -----------------------------------------------------------------


class Kinds(eqx.Module):
    """Looks at what its layers are, as a dispatch on types does."""

    layers: list

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x) if type(layer) is eqx.nn.Linear else 0 * layer(x)
        return x


REGISTRY = []


class Registered(eqx.Module):
    lin: eqx.nn.Linear

    def __init_subclass__(cls, *, tag, **kwargs):
        super().__init_subclass__(**kwargs)
        REGISTRY.append(tag)

    def __call__(self, x):
        return self.lin(x)


class Tagged(Registered, tag="a"):
    pass


@jax.custom_vjp
def remembered(layer, x):
    return layer(x)


remembered.defvjp(
    lambda layer, x: (layer(x), (layer, x)),
    lambda kept, g: jax.vjp(lambda layer, x: layer(x), *kept)[1](g),
)


class Remembering(eqx.Module):
    lin: eqx.nn.Linear

    def __call__(self, x):
        return remembered(self.lin, x)


def linear():
    return eqx.nn.Linear(6, 4, key=KEY)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "bf16-true"])
@pytest.mark.parametrize(
    "make",
    [lambda: Kinds([linear()]), lambda: Tagged(linear()), lambda: Remembering(linear())],
    ids=["types", "registry", "custom_vjp"],
)
def test_modules_are_of_their_own_class_inside_of_a_call(make, precision):
    def loss(model, example, key):
        return jnp.sum(model(example[0]) ** 2)

    losses = []
    for chosen in (None, precision):
        step = treadle.TrainStep(loss, optax.sgd(0.1), precision=chosen)
        _, metrics = step(step.init(make(), key=KEY), make_batch())
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.03)
    assert REGISTRY == ["a"]


class Tokens(eqx.Module):
    embed: eqx.nn.Embedding
    out: eqx.nn.Linear

    @eqx.filter_jit
    def encode(self, token):
        return self.embed(token)

    def __call__(self, token):
        return self.out(self.encode(token))


@pytest.mark.parametrize("first", ["model", "encode"])
def test_what_was_traced_before_does_not_decide_who_casts(first):
    seen = {}

    def loss(model, token, key):
        if first == "model":
            seen["model"] = model(token)
            seen["encode"] = model.encode(token)
        else:
            seen["encode"] = model.encode(token)
            seen["model"] = model(token)
        return jnp.sum(seen["model"])

    one, two = jax.random.split(KEY)
    model = Tokens(eqx.nn.Embedding(5, 6, key=one), eqx.nn.Linear(6, 2, key=two))
    step = treadle.TrainStep(loss, optax.sgd(0.1), precision="bf16")
    program = jax.make_jaxpr(step.pure)(step.init(model, key=KEY), np.arange(4, dtype=np.int32))
    assert seen["model"].dtype == jnp.float32
    assert seen["encode"].dtype == jnp.float32
    # Inside of the model the embedding goes on in bfloat16.
    dots = [e for e in eqns(program.jaxpr) if e.primitive.name == "dot_general"]
    assert all(e.invars[0].aval.dtype == jnp.bfloat16 for e in dots[:1])


def eqns(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from eqns(value.jaxpr)


def test_a_module_from_outside_is_told_how_to_come_in():
    outside = Net(KEY)

    def loss(model, example, key):
        jax.tree.map(lambda a, b: a, model, outside)
        return quiet_loss(model, example, key)

    step = treadle.TrainStep(loss, ADAM, precision="bf16")
    with pytest.raises(ValueError, match=r"structure|mismatch") as caught:
        step(step.init(Net, key=KEY), make_batch())
    assert any("hand it over as `args`" in note for note in caught.value.__notes__)
