import itertools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from treadle._compat import enable_x64
from treadle._errors import ArgumentTypeError, ArgumentValueError
from treadle.nn import MLP


def make(in_size=4, out_size=3, width=8, depth=2, *, seed=0, **options):
    return MLP(in_size, out_size, width, depth, **{"key": jax.random.key(seed), **options})


def cast(model, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_array(leaf) else leaf, model)


def passthrough(size, depth, dropout):
    """An MLP whose linear maps are the identity: what comes out is the input times the masks."""
    model = make(size, size, size, depth, dropout=dropout, activation=lambda x: x)
    weights = [layer.weight for layer in model.layers]
    biases = [layer.bias for layer in model.layers]
    model = eqx.tree_at(
        lambda m: [k.weight for k in m.layers], model, [jnp.eye(size)] * len(weights)
    )
    return eqx.tree_at(lambda m: [k.bias for k in m.layers], model, [jnp.zeros(size)] * len(biases))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_depth_counts_the_hidden_layers(depth):
    model = make(in_size=5, out_size=2, width=7, depth=depth)
    shapes = [layer.weight.shape for layer in model.layers]
    sizes = [5, *[7] * depth, 2]
    assert shapes == [(after, before) for before, after in itertools.pairwise(sizes)]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_computes_what_it_says(depth):
    model = make(depth=depth, activation=jnp.tanh)
    x = jax.random.normal(jax.random.key(1), (4,))
    expected = np.asarray(x, np.float64)
    for index, layer in enumerate(model.layers):
        expected = np.asarray(layer.weight) @ expected + np.asarray(layer.bias)
        expected = np.tanh(expected) if index < depth else expected
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)


def test_layers_draw_from_different_keys():
    first, second, _ = make(in_size=8, width=8).layers
    assert not jnp.any(first.weight == second.weight)
    assert not eqx.tree_equal(make(seed=1), make(seed=2))
    assert eqx.tree_equal(make(seed=1), make(seed=1), typematch=True)


def test_raw_and_typed_keys_make_the_same_model():
    assert eqx.tree_equal(make(key=jax.random.PRNGKey(3)), make(key=jax.random.key(3)))


def test_each_hidden_layer_drops_on_its_own_and_the_readout_does_not():
    out = passthrough(400, depth=2, dropout=0.5)(jnp.ones(400), key=jax.random.key(0))
    kept = out[out != 0]
    np.testing.assert_allclose(kept, 4.0)
    # Two independent masks keep a quarter; one mask used twice keeps a half, a third one an eighth.
    assert 0.18 < kept.size / out.size < 0.32


def test_the_same_key_draws_the_same_masks():
    model = passthrough(64, depth=1, dropout=0.5)
    x = jnp.ones(64)
    same = model(x, key=jax.random.key(0)) == model(x, key=jax.random.key(0))
    other = model(x, key=jax.random.key(0)) == model(x, key=jax.random.key(1))
    assert jnp.all(same)
    assert not jnp.all(other)


def test_inference_mode_needs_no_key_and_drops_nothing():
    model = eqx.nn.inference_mode(make(dropout=0.5))
    x = jnp.arange(4.0)
    plain = make()(x)
    np.testing.assert_array_equal(model(x), plain)
    np.testing.assert_array_equal(model(x, key=jax.random.key(0)), plain)


@pytest.mark.parametrize("options", [{"dropout": 0.0}, {"dropout": 0.5, "depth": 0}])
def test_without_anything_to_drop_no_key_is_needed(options):
    assert make(**options)(jnp.ones(4)).shape == (3,)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_computes_in_the_dtype_of_its_parameters(dtype):
    model = cast(make(dropout=0.1), dtype)
    assert model(jnp.ones(4, dtype), key=jax.random.key(0)).dtype == dtype


def test_computes_in_double_precision():
    with enable_x64(True):
        out = cast(make(dropout=0.1), "float64")(jnp.ones(4, "float64"), key=jax.random.key(0))
        assert out.dtype == "float64"


def test_trains_under_jit_vmap_and_grad():
    model = make(dropout=0.1)
    x = jnp.ones((5, 4))
    keys = jax.random.split(jax.random.key(0), 5)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(model, x, keys):
        return jnp.mean(jax.vmap(lambda one, key: model(one, key=key))(x, keys) ** 2)

    value, grads = loss(model, x, keys)
    assert jnp.isfinite(value)
    assert all(jnp.any(grad != 0) for grad in jax.tree.leaves(grads))


def test_an_activation_with_parameters_is_trained():
    model = make(activation=eqx.nn.PReLU(0.25))
    grads = eqx.filter_grad(lambda m: jnp.sum(m(-jnp.ones(4))))(model)
    assert grads.activation.negative_slope != 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (28, 28),
            (
                "`x` has shape (28, 28), but this MLP takes one example of shape "
                "(in_size,) = (784,). "
                "Flatten it: `x.reshape(-1)`."
            ),
        ),
        (
            (32, 784),
            (
                "`x` has shape (32, 784), but this MLP takes one example of shape "
                "(in_size,) = (784,). "
                "It looks like a batch of 32 examples: `jax.vmap(model)(x)`, or leave it to "
                "`treadle.TrainStep`, which vmaps the loss."
            ),
        ),
        ((1, 784), "a batch of 1 example: `jax.vmap(model)(x)`"),
        ((6, 28, 28), "a batch of 6 examples of shape (28, 28): flatten each one"),
        ((783,), "Give it 784 features, or make the model with `in_size=783`."),
        ((2, 3), "One example of this shape has 6 features in all."),
        ((), "One example of this shape has 1 features in all."),
    ],
)
@pytest.mark.parametrize("transform", [lambda f: f, eqx.filter_jit])
def test_a_wrong_shape_is_told_in_the_callers_terms(shape, message, transform):
    model = make(in_size=784)
    with pytest.raises(ArgumentValueError, match=re.escape(message)):
        transform(model)(jnp.zeros(shape))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (jnp.zeros(4, "uint8"), r"dtype uint8, .* scaled first: `x.astype\(jnp.float32\) / 255`"),
        (jnp.zeros(4, "int32"), r"dtype int32, .*: `x.astype\(jnp.float32\)`\.$"),
        (jnp.zeros(4, bool), r"dtype bool, .*: `x.astype\(jnp.float32\)`\.$"),
        (jnp.zeros(4, "complex64"), r"dtype complex64, .* Give it real numbers"),
        ([0.0] * 4, r"`x` is of type list, .*`jnp.asarray\(x\)`"),
        (1.0, r"`x` is of type float, .*`jnp.asarray\(x\)`"),
    ],
)
def test_what_is_not_a_vector_of_floats_is_refused(x, message):
    with pytest.raises(ArgumentTypeError, match=message):
        make()(x)


def test_training_mode_without_a_key_is_told():
    with pytest.raises(ArgumentValueError, match=r"`key` is None, .*`dropout`=0\.5.*") as caught:
        make(dropout=0.5)(jnp.ones(4))
    assert "eqx.nn.inference_mode(model)(x)" in str(caught.value)


def test_a_seed_is_not_a_key():
    with pytest.raises(ArgumentTypeError, match=r"`key` \(=7\).*`jax\.random\.key"):
        make(key=7)
    with pytest.raises(ArgumentTypeError, match=r"`key` \(=7\).*`jax\.random\.key"):
        make(dropout=0.5)(jnp.ones(4), key=7)
    with pytest.raises(ArgumentValueError, match=r"`key` is an array of 2 keys"):
        make(key=jax.random.split(jax.random.key(0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_size": 0}, r"`in_size` \(=0\) must be a whole number of at least 1"),
        ({"out_size": -2}, r"`out_size` \(=-2\) must be a whole number of at least 1"),
        ({"width": 0}, r"`width` \(=0\) must be a whole number of at least 1"),
        ({"depth": -1}, r"`depth` \(=-1\) must be a whole number of at least 0"),
        ({"dropout": 1.0}, r"`dropout` \(=1.0\) must lie in \[0, 1\)"),
        ({"dropout": -0.1}, r"`dropout` \(=-0.1\) must lie in \[0, 1\)"),
        ({"dropout": float("nan")}, r"`dropout` \(=nan\) must lie in \[0, 1\)"),
    ],
)
def test_constructor_refuses_values_out_of_range(options, message):
    with pytest.raises(ArgumentValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"width": 2.5},
            r"`width` \(=2.5\) must be .* at least 1, not of type float",
        ),
        (
            {"depth": True},
            r"`depth` \(=True\) must be .* at least 0, not of type bool",
        ),
        ({"dropout": "a lot"}, r"`dropout` \(='a lot'\) must be a number in \[0, 1\), not str"),
        ({"activation": "relu"}, r"`activation` \(='relu'\) must be a function"),
    ],
)
def test_constructor_refuses_wrong_types(options, message):
    with pytest.raises(ArgumentTypeError, match=message):
        make(**options)
