import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.nn.reference import (
    BATCH,
    NETS,
    NUM_CLASSES,
    filled,
    images_of,
    norms_of,
    parameters_of,
    recorded,
    state_filled,
    statistics_of,
)

from treadle import EvalStep, TrainStep, evaluate
from treadle._compat import enable_x64
from treadle._errors import ArgumentTypeError, ArgumentValueError
from treadle.nn import ResNet
from treadle.tree import count

COUNTS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}


def make(depth=18, num_classes=3, *, seed=0, **options):
    """A small model, and its state where it has one."""
    options = {"in_channels": 1, "width": 4, "stem": "small", "groups": 2, **options}
    key = options.pop("key", jax.random.key(seed))
    return eqx.nn.make_with_state(ResNet)(depth, num_classes, **options, key=key)


def abstract(*args, **options):
    """A model of shapes: quick to make, and enough for what is told at the door."""
    return eqx.filter_eval_shape(make, *args, **options)


@eqx.filter_jit
def over_batch(model, x, state):
    mapped = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return mapped(x, state)


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_array(leaf) else leaf, tree)


def dtypes_of(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def small():
    return make()


# Beside PyTorch.


@pytest.fixture(params=["recorded", "live"])
def figures(request):
    """PyTorch's figures of a net: those on record, and where it is installed also computed anew."""
    if request.param == "recorded":
        return recorded().get
    pytest.importorskip("torch")
    from tests.nn import torch_figures

    return torch_figures.resnet_figures


@pytest.mark.parametrize(
    "name",
    # Seven seconds to compile.
    [pytest.param(name, marks=pytest.mark.slow) if name == "resnet50" else name for name in NETS],
)
def test_the_forward_pass_is_pytorchs(name, figures):
    told = figures(name)
    model, state = make(num_classes=NUM_CLASSES, **NETS[name])
    model, x = filled(model), jnp.asarray(images_of(name))
    for mode, theirs in told.items():
        # The images must matter, and by far more than the tolerance.
        assert np.std(theirs, axis=0).mean() > 0.05
        if mode == "eval":
            logits, _ = over_batch(eqx.nn.inference_mode(model), x, state_filled(model, state))
        else:
            logits, _ = over_batch(model, x, state)
        np.testing.assert_allclose(logits, theirs, atol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_gradients_statistics_and_group_norms_are_pytorchs(norm):
    torch = pytest.importorskip("torch")
    from tests.nn import torch_figures

    model, state = make(34, NUM_CLASSES, norm=norm, width=8)
    model, x = filled(model), jnp.asarray(images_of("resnet50"))
    make_norm = {
        "batch": torch.nn.BatchNorm2d,
        "group": lambda channels: torch.nn.GroupNorm(2, channels),
    }[norm]
    theirs = torch_figures.ResNet(34, 8, 1, "small", norm=make_norm)
    torch_figures.fill(theirs, buffers=False).train()

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def loss(model):
        logits, new = over_batch(model, x, state)
        return jnp.mean(logits**2), new

    (value, new), grads = loss(model)
    their_value = (theirs(torch.tensor(np.asarray(x))) ** 2).mean()
    their_value.backward()
    np.testing.assert_allclose(value, their_value.item(), rtol=1e-4)
    named = dict(theirs.named_parameters())
    assert parameters_of(grads).keys() == named.keys()
    for name, grad in parameters_of(grads).items():
        expected = named[name].grad.numpy()
        np.testing.assert_allclose(grad, expected, atol=2e-3 * np.abs(expected).max())
    buffers = dict(theirs.named_buffers())
    maps = {1: 16, 2: 8, 3: 4, 4: 2}
    for name, layer in norms_of(model).items():
        stage = int(name[5]) if name.startswith("layer") else 1
        mean, var = statistics_of(layer, new, BATCH * maps[stage] ** 2)
        np.testing.assert_allclose(mean, buffers[f"{name}.running_mean"], atol=1e-4)
        np.testing.assert_allclose(var, buffers[f"{name}.running_var"], rtol=1e-4)


# What it is made of.


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("depth", COUNTS)
def test_it_has_as_many_parameters_as_everybody_elses(depth, norm):
    model, state = eqx.filter_eval_shape(
        eqx.nn.make_with_state(ResNet), depth, 1000, norm=norm, key=jax.random.key(0)
    )
    assert count(model) == COUNTS[depth]
    assert bool(jax.tree.leaves(state)) == (norm == "batch")


@pytest.mark.parametrize(
    ("depth", "stem", "side", "expected"),
    [
        (18, "small", 32, [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]),
        (18, "imagenet", 224, [(4, 56, 56), (8, 28, 28), (16, 14, 14), (32, 7, 7)]),
        (50, "small", 8, [(16, 8, 8), (32, 4, 4), (64, 2, 2), (128, 1, 1)]),
        (34, "imagenet", 17, [(4, 5, 5), (8, 3, 3), (16, 2, 2), (32, 1, 1)]),
    ],
)
def test_each_stage_halves_the_image_and_doubles_the_width(depth, stem, side, expected):
    model, _ = make_group(depth, stem=stem)
    maps = jax.ShapeDtypeStruct((1, side, side), jnp.float32)
    assert eqx.filter_eval_shape(model, maps).shape == (3,)
    maps, _ = eqx.filter_eval_shape(model.stem_conv, maps, None)
    maps = maps if model.pool is None else eqx.filter_eval_shape(model.pool, maps)
    shapes = []
    for stage in model.stages:
        for block in stage:
            maps, _ = eqx.filter_eval_shape(block, maps, None)
        shapes.append(maps.shape)
    assert shapes == expected


def make_group(*args, **options):
    return abstract(*args, norm="group", **options)


def test_convolutions_begin_with_he_variance_and_no_bias():
    model, _ = make(width=16)
    for name, weight in parameters_of(model).items():
        if weight.ndim == 4:
            std = np.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
            assert abs(float(jnp.std(weight)) / std - 1) < 4 / np.sqrt(2 * weight.size), name
            assert abs(float(jnp.mean(weight))) < 4 * std / np.sqrt(weight.size), name
    assert not any(name.endswith(".bias") and "conv" in name for name in parameters_of(model))


def test_layers_draw_different_numbers(small):
    weights = [leaf.ravel() for leaf in jax.tree.leaves(small[0]) if np.ndim(leaf) == 4]
    first = [float(weight[0]) * len(weight) for weight in weights]
    assert len(set(first)) == len(weights)
    assert eqx.tree_equal(make(), small, typematch=True)
    assert not eqx.tree_equal(make(seed=1)[0], small[0])
    assert eqx.tree_equal(make(key=jax.random.PRNGKey(0)), small)


# How it is called.


def test_batch_norms_look_at_the_batch_in_training_and_at_the_statistics_otherwise(small):
    model, state = small
    x = jax.random.normal(jax.random.key(1), (4, 1, 8, 8))
    among_others = x.at[2:].multiply(3.0)
    out, new = over_batch(model, x, state)
    other, _ = over_batch(model, among_others, state)
    assert not np.allclose(out[:2], other[:2], atol=1e-2)
    assert not eqx.tree_equal(new, state)
    evaluated = eqx.nn.inference_mode(model)
    out, same = over_batch(evaluated, x, new)
    other, _ = over_batch(evaluated, among_others, new)
    np.testing.assert_array_equal(out[:2], other[:2])
    assert eqx.tree_equal(same, new)


def test_group_norms_look_at_one_image_and_pass_a_state_on():
    model, state = make(norm="group")
    x = jax.random.normal(jax.random.key(1), (4, 1, 8, 8))
    batched = jax.jit(jax.vmap(model))(x)
    one, same = eqx.filter_jit(model)(x[0], state, key=jax.random.key(0))
    np.testing.assert_allclose(batched[0], one, atol=1e-5)
    assert eqx.tree_equal(same, state)


@pytest.mark.parametrize(("dtype", "atol"), [("bfloat16", 0.3), ("float16", 0.05)])
def test_half_precision_keeps_single_statistics(small, dtype, atol):
    model, state = small
    x = jax.random.normal(jax.random.key(1), (4, 1, 8, 8))
    exact, new = over_batch(model, x, state)
    out, new_half = over_batch(cast(model, dtype), x.astype(dtype), state)
    assert out.dtype == dtype
    np.testing.assert_allclose(out.astype("float32"), exact, atol=atol)
    assert dtypes_of(new_half) == dtypes_of(new)
    evaluated, _ = eqx.filter_jit(eqx.nn.inference_mode(cast(model, dtype)))(
        x[0].astype(dtype), new_half
    )
    assert evaluated.dtype == dtype


def test_a_float32_model_is_not_cast(small):
    model, state = small
    jaxpr = jax.make_jaxpr(eqx.nn.inference_mode(model))(jnp.zeros((1, 8, 8)), state)
    casts = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "convert_element_type"]
    # Of the counts of steps, and nothing else.
    assert all(eqn.invars[0].aval.shape == () for eqn in casts)


def test_computes_in_double_precision():
    with enable_x64(True):
        model, state = make()
        assert model.readout.weight.dtype == "float64"
        out, _ = eqx.filter_eval_shape(eqx.nn.inference_mode(model), jnp.zeros((1, 8, 8)), state)
        assert out.dtype == "float64"


def loss_fn(model, model_state, example, key):
    x, y = example
    logits, model_state = model(x, model_state, key=key)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return (loss, {"accuracy": jnp.argmax(logits) == y}), model_state


def test_it_learns_with_a_stateful_step(small):
    model, model_state = small
    rng = np.random.default_rng(0)
    y = np.arange(24, dtype=np.int32) % 3
    x = rng.normal(size=(24, 1, 8, 8)).astype(np.float32) + y[:, None, None, None]
    step = TrainStep(loss_fn, optax.adam(1e-2), stateful=True)
    state = step.init(model, model_state=model_state, key=jax.random.key(0))
    for _ in range(30):
        state, metrics = step(state, (x, y))
    assert metrics["accuracy"] == 1

    def metric_fn(model, model_state, example):
        x, y = example
        return {"accuracy": jnp.argmax(model(x, model_state)[0]) == y}

    measured = evaluate(EvalStep(metric_fn, stateful=True), state, [(x, y)])
    assert measured == {"accuracy": 1.0}


# What is told at the door.


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((32, 3, 32, 32), "a batch of 32 examples: `jax.vmap(model, axis_name=..., in_axes=(0,"),
        (
            (1, 32, 32, 3),
            "batch of 1 example (after `jnp.moveaxis(x, -1, 1)`: channels first): `jax",
        ),
        ((8, 1, 32, 32), "neither the second nor the last has 3."),
        ((32, 32, 3), "Its channels come last: `jnp.moveaxis(x, -1, 0)`."),
        ((1, 32, 32), "Make the model with `in_channels=1`, if it is such an image."),
        ((3072,), "A flat image is put into shape first: `x.reshape(3, height, width)`."),
        ((32, 32), "takes one image of shape (channels, height, width) with 3 channels."),
        ((3, 0, 32), "There is nothing in it."),
        ((3, 4, 32), 'an image of 4x32, too small for this ResNet: `stem="small"` and the stages'),
    ],
)
def test_what_is_not_one_image_is_told_in_the_callers_terms(shape, message):
    model, state = abstract(in_channels=3)
    with pytest.raises(ArgumentValueError, match=re.escape(message)):
        model(jnp.zeros(shape), state)


def test_other_hints_are_of_the_model():
    model, _ = abstract(norm="group")
    with pytest.raises(ArgumentValueError, match=r"for its one channel: `x\[None\]`"):
        model(jnp.zeros((8, 8)))
    with pytest.raises(ArgumentValueError, match=r"2 examples: `jax.vmap\(model\)\(x\)`, or"):
        model(jnp.zeros((2, 1, 8, 8)))
    model, _ = abstract(norm="group", stem="imagenet")
    with pytest.raises(ArgumentValueError, match=r"five times.* at least 17 pixels: `stem=\"small"):
        model(jnp.zeros((1, 16, 16)))
    assert eqx.filter_eval_shape(model, jnp.zeros((1, 17, 17))).shape == (3,)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 8, 8), "uint8"), r"dtype uint8, .* scaled first: `x.astype"),
        (np.zeros((1, 8, 8), "int32"), r"dtype int32, .*: `x.astype\(jnp.float32\)`\.$"),
        ([0.0], r"`x` is of type list, .* 1 channel: `jnp.asarray\(x\)`"),
    ],
)
def test_what_is_not_an_array_of_floats_is_refused(x, message):
    model, state = abstract()
    with pytest.raises(ArgumentTypeError, match=message):
        model(x, state)


def test_a_missing_state_is_told():
    model, state = abstract()
    with pytest.raises(ArgumentValueError, match="`state` is missing") as caught:
        model(jnp.zeros((1, 8, 8)))
    assert "eqx.nn.make_with_state(treadle.nn.ResNet)" in str(caught.value)
    with pytest.raises(ArgumentTypeError, match=r"`state` is of type .*model\(x, state, key=key\)"):
        model(jnp.zeros((1, 8, 8)), jax.random.key(0))
    with pytest.raises(ArgumentTypeError, match=r"`key` \(=7\)"):
        model(jnp.zeros((1, 8, 8)), state, key=7)


def test_training_without_a_batch_is_told():
    model, state = abstract(axis_name="rows")
    with pytest.raises(
        ArgumentValueError, match=r"mapped over a batch whose axis is called 'rows'"
    ):
        model(jnp.zeros((1, 8, 8)), state)
    with pytest.raises(ArgumentValueError, match=r"eqx.nn.inference_mode\(model\)"):
        eqx.filter_eval_shape(over_batch, model, jnp.zeros((2, 1, 8, 8)), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 101}, r"`depth` \(=101\) must be 18, 34 or 50\."),
        ({"num_classes": 0}, r"`num_classes` \(=0\) must be a whole number of at least 1"),
        ({"in_channels": 0}, r"`in_channels` \(=0\) must be a whole number of at least 1"),
        ({"width": 0}, r"`width` \(=0\) must be a whole number of at least 1"),
        ({"groups": 0}, r"`groups` \(=0\) must be a whole number of at least 1"),
        ({"norm": "layer"}, r"`norm` \(='layer'\) must be 'batch' or 'group'\."),
        ({"stem": "cifar"}, r"`stem` \(='cifar'\) must be 'imagenet' or 'small'\."),
        (
            {"norm": "group", "width": 48},
            r"`width` \(=48\) must be divisible by `groups` \(=32\), .*: `groups=24`, for one",
        ),
    ],
)
def test_constructor_refuses_values_out_of_range(options, message):
    with pytest.raises(ArgumentValueError, match=message):
        ResNet(**{"depth": 18, "num_classes": 3, "key": jax.random.key(0), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": "18"}, r"`depth` \(='18'\) must be 18, 34 or 50, not of type str\."),
        ({"depth": True}, r"`depth` \(=True\) must be 18, 34 or 50, not of type bool\."),
        ({"norm": None}, r"`norm` \(=None\) must be 'batch' or 'group', not of type NoneType\."),
        ({"width": 2.5}, r"`width` \(=2.5\) must be .* not of type float"),
        ({"key": 7}, r"`key` \(=7\).*`jax\.random\.key"),
    ],
)
def test_constructor_refuses_wrong_types(options, message):
    with pytest.raises(ArgumentTypeError, match=message):
        ResNet(**{"depth": 18, "num_classes": 3, "key": jax.random.key(0), **options})
