"""Weights of PyTorch models in and out, beside PyTorch: recorded, and where it is installed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.helpers import assert_same
from tests.interop import encoder
from tests.interop.torch_reference import (
    IMAGES,
    MLP_SHAPES,
    RESNET,
    SENTENCES,
    STEPS,
    batch_of,
    recorded,
    state_dict_of,
)
from tests.nn.reference import drawn

import treadle
from treadle import ArgumentTypeError, ArgumentValueError, TrainStep, TreeError
from treadle.interop import safetensors
from treadle.interop.torch import Split, Transposed, from_torch, to_torch
from treadle.testing import check_lens


@pytest.fixture(params=["recorded", "live"])
def figures(request):
    """PyTorch's figures: those on record, and where it is installed also computed anew."""
    if request.param == "recorded":
        return recorded
    pytest.importorskip("torch")
    from tests.interop import torch_figures

    return torch_figures.figures_of


# Beside PyTorch.


@pytest.fixture(scope="module")
def encode():
    return eqx.filter_jit(encoder.inference)


def test_a_transformer_encoder_gives_what_pytorchs_gives(figures, encode):
    model = eqx.filter_eval_shape(encoder.Encoder, key=jax.random.key(0))
    model = from_torch(model, state_dict_of(encoder.shapes()), encoder.RENAME)
    theirs = np.array(figures("transformer"))
    assert np.std(theirs) > 0.5
    np.testing.assert_allclose(encode(model, drawn(*SENTENCES)), theirs, atol=1e-5)


def resnet_table():
    table = {"conv1.*": "stem_conv/conv/*", "bn1.*": "stem_conv/norm/*", "fc.*": "readout/*"}
    for stage in range(4):
        theirs, ours = f"layer{stage + 1}.*", f"stages/{stage}/*"
        for unit in range(2):
            table[f"{theirs}.conv{unit + 1}.*"] = f"{ours}/convs/{unit}/conv/*"
            table[f"{theirs}.bn{unit + 1}.*"] = f"{ours}/convs/{unit}/norm/*"
        if stage:
            table[f"{theirs}.downsample.0.*"] = f"{ours}/shortcut/conv/*"
            table[f"{theirs}.downsample.1.*"] = f"{ours}/shortcut/norm/*"
    return table


def make_resnet(norm="batch"):
    options = {name: RESNET[name] for name in ("in_channels", "width", "stem")}
    make = eqx.nn.make_with_state(treadle.nn.ResNet)
    # Shapes are enough, and quick to make.
    return eqx.filter_eval_shape(
        make, 18, 10, **options, norm=norm, groups=2, key=jax.random.key(0)
    )


@pytest.fixture(scope="module")
def network():
    return make_resnet()


def resnet_shapes(model, state):
    """What PyTorch's `state_dict` has: written down here by the test's own rules."""
    from tests.nn.reference import norms_of, parameters_of

    found = {name: leaf.shape for name, leaf in parameters_of(model).items()}
    for name, norm in norms_of(model).items():
        found |= {f"{name}.running_{part}": (norm.input_size,) for part in ("mean", "var")}
        found[f"{name}.num_batches_tracked"] = ()
    return found


def resnet_state_dict(network):
    return {
        name: np.array(7) if not shape else drawn(name, shape)
        for name, shape in resnet_shapes(*network).items()
    }


@pytest.fixture(scope="module")
def classify():
    @eqx.filter_jit
    def classify(model, state, x):
        model = eqx.nn.inference_mode(model)
        return jax.vmap(model, in_axes=(0, None), out_axes=(0, None))(x, state)[0]

    return classify


def test_resnet_18_gives_what_pytorchs_gives(figures, network, classify):
    model, state = network
    model, state = from_torch(model, resnet_state_dict(network), resnet_table(), model_state=state)
    theirs = np.array(figures("resnet"))
    assert np.std(theirs) > 0.05
    ours = classify(model, state, drawn(*IMAGES))
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_a_real_state_dict_has_the_names_and_shapes_that_are_recorded(network):
    torch = pytest.importorskip("torch")
    from tests.interop import torch_figures

    for module, shapes in (
        (torch_figures.transformer(), encoder.shapes()),
        (torch_figures.resnet(), resnet_shapes(*network)),
        (torch_figures.mlp(), MLP_SHAPES),
    ):
        assert {name: tuple(t.shape) for name, t in module.state_dict().items()} == shapes
    assert isinstance(module, torch.nn.Module)


def loss_fn(model, example, key):
    x, y = example
    return optax.softmax_cross_entropy_with_integer_labels(model(x, key=key), y)


MLP_TABLE = {"0.*": "layers/0/*", "2.*": "layers/1/*"}
OURS = {
    "sgd": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(1e-3, weight_decay=0.1),
}


def make_mlp():
    return treadle.nn.MLP(4, 3, width=8, depth=1, activation=jnp.tanh, key=jax.random.key(0))


@pytest.fixture(scope="module")
def trained():
    def train(name):
        step = TrainStep(loss_fn, OURS[name])
        model = from_torch(make_mlp(), state_dict_of(MLP_SHAPES), MLP_TABLE)
        state = step.init(model, key=jax.random.key(1))
        losses = []
        for number in range(STEPS):
            state, metrics = step(state, batch_of(number))
            losses.append(float(metrics["loss"]))
        return losses, to_torch(state.model, state_dict_of(MLP_SHAPES), MLP_TABLE)

    return {name: train(name) for name in OURS}


@pytest.mark.parametrize("name", OURS)
def test_twenty_steps_are_those_of_pytorchs_own_loop(name, figures, trained):
    losses, weights = trained[name]
    told = figures(name)
    np.testing.assert_allclose(losses, told["losses"], rtol=1e-6)
    for path, ours in weights.items():
        theirs = np.array(told["weights"][path])
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


# There and back.

WEIGHTS = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.arange(2.0), "cube": jnp.ones((2, 3, 4))}


def changed(tree, seed):
    """Other numbers of the same kinds, shapes and dtypes."""
    rng = np.random.default_rng(seed)

    def other(leaf):
        numbers = rng.normal(size=leaf.shape).astype(leaf.dtype)
        return numbers if isinstance(leaf, np.ndarray) else jnp.asarray(numbers)

    return jax.tree.map(other, tree)


TABLES = {
    "same names": ({"w": (2, 3), "b": (2,), "cube": (2, 3, 4)}, {}),
    "transposed": (
        {"w": (3, 2), "b": (2,), "cube": (3, 4, 2)},
        {"w": Transposed("w"), "cube": Transposed("cube", (2, 0, 1))},
    ),
    "axes of length 1": (
        {"m.w": (2, 1, 3, 1), "m.b": (1, 2), "m.cube": (2, 3, 4, 1)},
        {"m.**": "**", "x": None},
    ),
    "split": (
        {"all": (2, 4), "cube": (2, 3, 4), "extra": (5,)},
        {"all": Split("w", "b", axis=-1), "extra": None},
    ),
    "split and turned": (
        {"all": (5, 4, 2), "w": (2, 3)},
        {"all": Split(Transposed("cube", (2, 0, 1)), Transposed("b", (2, 0, 1)))},
    ),
    "flipped": (
        {"w": (2, 3), "b": (2,), "cube": (4, 3, 2)},
        {"cube": Transposed("cube", flipped=(1, -1)), "w": Transposed("w", (0, 1), flipped=(0,))},
    ),
    "split and transposed": (
        {"all": (4, 2), "cube": (2, 3, 4)},
        {"all": Split(Transposed("w"), Transposed("b"))},
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_from_and_to_are_a_lens(name):
    shapes, table = TABLES[name]
    table = {key: to for key, to in table.items() if key != "x"}
    model = dict(WEIGHTS)
    if name == "split and turned":  # The cube is (3, 4, 2) of theirs, and the other (2, 4, 2).
        model = {"w": model["w"], "cube": jnp.ones((2, 3, 4)), "b": jnp.zeros((2, 2, 4))}
    elif name.startswith("split"):
        model["b"] = jnp.arange(2.0).reshape(2, 1)
    theirs = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    check_lens(
        lambda state_dict: from_torch(model, state_dict, table),
        lambda state_dict, new: to_torch(new, state_dict, table),
        changed(theirs, 0),
        changed(model, 1),
        changed(model, 2),
    )


def test_a_split_cuts_where_each_part_ends():
    table = {"all": Split("w", Transposed("b"), axis=1)}
    model = {"w": jnp.zeros((2, 3)), "b": jnp.zeros((1, 2))}
    found = from_torch(model, {"all": np.arange(8, dtype=np.float32).reshape(2, 4)}, table)
    assert found["w"].tolist() == [[0, 1, 2], [4, 5, 6]]
    assert found["b"].tolist() == [[3, 7]]


def test_the_parts_of_a_split_must_be_all_of_it():
    table = {"all": Split("w", "b", axis=1)}
    model = {"w": jnp.zeros((2, 3)), "b": jnp.zeros((2, 1))}
    with pytest.raises(TreeError, match=r"unlike +`all` float32\[2,5\] goes to `w` .* and `b`"):
        from_torch(model, {"all": np.zeros((2, 5), np.float32)}, table)


def test_the_axes_are_those_of_transpose():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    table = {"conv.kernel": Transposed("w", (2, 0, 1))}
    found = from_torch({"w": jnp.zeros((4, 2, 3))}, {"conv.kernel": array}, table)
    np.testing.assert_array_equal(found["w"], array.transpose(2, 0, 1))


def test_the_axes_that_are_flipped_are_ours():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    table = {"w": Transposed("w", (1, 0), flipped=(0,))}
    found = from_torch({"w": jnp.zeros((3, 2))}, {"w": array}, table)
    np.testing.assert_array_equal(found["w"], array.T[::-1])


def upsample(x, weight, bias, stride, padding):
    """PyTorch's transposed convolution along one axis, as its manual has it."""
    size = (x.shape[1] - 1) * stride + weight.shape[2]
    out = np.zeros((weight.shape[1], size), np.float32)
    for at in range(x.shape[1]):
        out[:, at * stride : at * stride + weight.shape[2]] += np.einsum(
            "i,iok->ok", x[:, at], weight
        )
    return out[:, padding : size - padding] + bias[:, None]


def test_a_kernel_of_a_transposed_convolution_is_not_taken_as_it_lies():
    # As many channels go in as come out: the shapes tell nothing.
    theirs = {"up.weight": drawn("up.weight", (2, 2, 4)), "up.bias": drawn("up.bias", (2,))}
    model = {"up": eqx.nn.ConvTranspose1d(2, 2, 4, stride=2, padding=1, key=jax.random.key(0))}
    with pytest.raises(TreeError, match=r"unlike .*, which PyTorch has mirrored") as told:
        from_torch(model, theirs)
    assert "`Transposed('up/weight', (1, 0, 2), flipped=(2,))`" in str(told.value)
    table = {"up.weight": Transposed("up/weight", (1, 0, 2), flipped=(2,))}
    x = drawn("x", (2, 5))
    ours = from_torch(model, theirs, table)["up"](jnp.asarray(x))
    wanted = upsample(x, *theirs.values(), stride=2, padding=1)
    np.testing.assert_allclose(ours, wanted, atol=1e-6)
    assert_same(to_torch(from_torch(model, theirs, table), theirs, table), theirs)
    # One that lies as ours does may be said to.
    table = {"up.weight": Transposed("up/weight", (0, 1, 2))}
    kept = from_torch(model, theirs, table)["up"].weight
    np.testing.assert_array_equal(kept, theirs["up.weight"])


@pytest.mark.parametrize("groups", [1, 4])
def test_transposed_convolutions_give_what_pytorchs_give(groups):
    torch = pytest.importorskip("torch")
    options = {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 0), "groups": groups}
    module = torch.nn.ConvTranspose2d(4, 4, (3, 2), **options)
    model = eqx.nn.ConvTranspose2d(4, 4, (3, 2), **options, key=jax.random.key(0))
    table = {"weight": Transposed("weight", (1, 0, 2, 3), flipped=(2, 3))}
    model = from_torch(model, module.state_dict(), table)
    x = drawn("x", (4, 5, 6))
    theirs = module(torch.from_numpy(x)[None])[0].detach().numpy()
    np.testing.assert_allclose(model(jnp.asarray(x)), theirs, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_layers_have_the_sums_that_the_page_tells(kind):
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, kind)(2, 3)
    theirs = {name.removesuffix("_l0"): tensor for name, tensor in module.state_dict().items()}
    of_input, of_hidden = theirs.pop("bias_ih"), theirs.pop("bias_hh")
    theirs["bias"] = of_input + of_hidden
    if kind == "GRU":
        theirs["bias"][6:] = of_input[6:]
        theirs["bias_n"] = of_hidden[6:]
    cell = from_torch(getattr(eqx.nn, f"{kind}Cell")(2, 3, key=jax.random.key(0)), theirs)
    x = drawn("x", (4, 2))
    carry = (jnp.zeros(3), jnp.zeros(3)) if kind == "LSTM" else jnp.zeros(3)
    for row in x:
        carry = cell(jnp.asarray(row), carry)
    wanted = module(torch.from_numpy(x))[0][-1].detach().numpy()
    np.testing.assert_allclose(carry[0] if kind == "LSTM" else carry, wanted, atol=1e-5)


def test_the_encoder_there_and_back_through_a_file(tmp_path):
    theirs = state_dict_of(encoder.shapes())
    safetensors.save(tmp_path / "theirs", theirs)
    blank = eqx.filter_eval_shape(encoder.Encoder, key=jax.random.key(0))
    model = from_torch(blank, safetensors.load(tmp_path / "theirs"), encoder.RENAME)
    assert_same(to_torch(model, theirs, encoder.RENAME), theirs)
    safetensors.save(tmp_path / "ours", model)
    assert_same(safetensors.load(tmp_path / "ours", blank), model)


def test_resnet_there_and_back(network):
    theirs, table = resnet_state_dict(network), resnet_table()
    model, state = from_torch(network[0], theirs, table, model_state=network[1])
    assert_same(to_torch(model, theirs, table, model_state=state), theirs)
    blank = {name: np.zeros_like(leaf) for name, leaf in theirs.items()}
    told = to_torch(model, blank, table, model_state=state)
    assert told.pop("bn1.num_batches_tracked") == 0
    assert_same(told["layer4.1.bn2.running_var"], theirs["layer4.1.bn2.running_var"])


# Tensors.


@pytest.mark.parametrize(
    "name",
    ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "bool"],
)
def test_tensors_of_every_dtype_go_there_and_back(name):
    torch = pytest.importorskip("torch")
    numbers = torch.tensor([[0.0, 1.0, 2.0]]).to(getattr(torch, name))
    theirs = {"w": torch.nn.Parameter(numbers, requires_grad=False), "s": numbers[0, 1]}
    model = {"w": np.zeros((1, 3), name), "s": np.zeros((), name)}
    found = from_torch(model, theirs)
    assert found["w"].dtype == name
    assert found["w"].astype("float32").tolist() == [[0, 1, 2 if name != "bool" else 1]]
    again = to_torch(found, theirs)
    assert again["w"].dtype is numbers.dtype
    assert torch.equal(again["w"].float(), numbers.float())
    again["w"].view(torch.uint8)[...] = 0
    assert found["s"] == 1
    assert float(theirs["w"].float().sum()) > 0


def test_tensors_that_need_a_gradient_or_are_not_contiguous():
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(3, 2).T)
    found = from_torch({"w": jnp.zeros((2, 3))}, {"w": weight})
    assert found["w"].tolist() == [[0, 2, 4], [1, 3, 5]]
    with torch.no_grad():
        weight.zero_()
    assert found["w"].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_tensors_without_numbers_are_told():
    torch = pytest.importorskip("torch")
    with pytest.raises(ArgumentTypeError, match="'w' without numbers"):
        from_torch({"w": jnp.zeros(2)}, {"w": torch.zeros(2, device="meta")})
    with pytest.raises(ArgumentTypeError, match=r"dtype torch.float32 and layout torch.sparse_coo"):
        from_torch({"w": jnp.zeros(2)}, {"w": torch.zeros(2).to_sparse()})


def test_a_module_takes_what_to_torch_gives():
    torch = pytest.importorskip("torch")
    from tests.interop import torch_figures

    module = torch_figures.mlp()
    model = make_mlp()
    module.load_state_dict(to_torch(model, module.state_dict(), MLP_TABLE))
    x = drawn("input", (5, 4))
    with torch.no_grad():
        theirs = module(torch.tensor(x)).numpy()
    np.testing.assert_allclose(jax.vmap(model)(jnp.asarray(x)), theirs, atol=1e-6)


def test_pytorch_is_not_imported():
    import sys

    import treadle.interop.torch  # noqa: F401

    if "torch" not in sys.modules:
        from_torch(make_mlp(), state_dict_of(MLP_SHAPES), MLP_TABLE)
        assert "torch" not in sys.modules


# States.


class Normed(eqx.Module):
    """A batch norm, and a layer whose state has a name of its own."""

    norm: eqx.nn.BatchNorm
    spectral: eqx.nn.SpectralNorm

    def __init__(self, mode="batch", momentum=0.9):
        self.norm = eqx.nn.BatchNorm(3, "batch", mode=mode, momentum=momentum)
        one, two = jax.random.split(jax.random.key(0))
        linear = eqx.nn.Linear(3, 3, use_bias=False, key=one)
        self.spectral = eqx.nn.SpectralNorm(linear, "weight", key=two)


NORMED = {
    "norm.weight": (3,),
    "norm.bias": (3,),
    "norm.running_mean": (3,),
    "norm.running_var": (3,),
    "norm.num_batches_tracked": (),
    "linear.weight": (3, 3),
    "linear.u": (3,),
    "linear.v": (3,),
}
NORMED_TABLE = {
    "linear.weight": "spectral/layer/weight",
    "linear.u": "spectral/uv_index/0",
    "linear.v": "spectral/uv_index/1",
}


@pytest.mark.parametrize(
    ("mode", "momentum"), [("batch", 0.0), ("batch", 0.9), ("batch", 0.999), ("ema", 0.9)]
)
def test_statistics_count_as_they_are_and_go_on_from_there(mode, momentum):
    model, state = eqx.nn.make_with_state(Normed)(mode, momentum)
    theirs = state_dict_of(NORMED)
    model, state = from_torch(model, theirs, NORMED_TABLE, model_state=state)
    mean, var = theirs["norm.running_mean"], theirs["norm.running_var"]
    x = drawn("input", (4, 3))
    weight, bias = theirs["norm.weight"], theirs["norm.bias"]
    expected = (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def call(norm, x, state):
        mapped = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        with jax.numpy_dtype_promotion("standard"):
            return mapped(x, state)

    evaluated = eqx.nn.inference_mode(model.norm)
    out, state = call(evaluated, x, state)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    _, state = call(model.norm, x, state)
    mean = momentum * mean + (1 - momentum) * x.mean(0)
    var = momentum * var + (1 - momentum) * x.var(0)
    out, _ = call(evaluated, x, state)
    np.testing.assert_allclose(
        out, (x - mean) / np.sqrt(var + 1e-5) * weight + bias, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_statistics_that_are_given_are_those_that_are_evaluated_with(mode, steps):
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode=mode, momentum=0.9)
    call = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    x = 2 + 3 * drawn("input", (4, 3))
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            _, state = call(x, state)
        ours = eqx.nn.inference_mode(norm)(x[0], state)[0]
    like = {"weight": (3,), "bias": (3,), "running_mean": (3,), "running_var": (3,)}
    theirs = to_torch(norm, state_dict_of(like), model_state=state)
    scaled = (x[0] - theirs["running_mean"]) / np.sqrt(theirs["running_var"] + 1e-5)
    np.testing.assert_allclose(ours, scaled, rtol=1e-5, atol=1e-6)
    # And come back as what is evaluated with.
    norm, state = from_torch(norm, theirs, model_state=state)
    assert_same(to_torch(norm, theirs, model_state=state), theirs)


def test_states_of_other_layers_go_by_the_path_of_their_index():
    model, state = eqx.nn.make_with_state(Normed)()
    theirs = state_dict_of(NORMED)
    model, state = from_torch(model, theirs, NORMED_TABLE, model_state=state)
    u, v = state.get(model.spectral.uv_index)
    np.testing.assert_array_equal(u, theirs["linear.u"])
    np.testing.assert_array_equal(v, theirs["linear.v"])
    assert_same(to_torch(model, theirs, NORMED_TABLE, model_state=state), theirs)


def test_a_state_that_is_not_handed_over_is_asked_for():
    model, state = eqx.nn.make_with_state(Normed)()
    theirs = state_dict_of(NORMED)
    with pytest.raises(TreeError, match="hand over `model_state=`") as told:
        from_torch(model, theirs, NORMED_TABLE)
    assert "num_batches_tracked" not in str(told.value)
    with pytest.raises(ArgumentTypeError, match="`model_state` is of type dict"):
        from_torch(model, theirs, NORMED_TABLE, model_state={})
    left_out = {"norm.running_*": None, "linear.u": None, "linear.v": None}
    from_torch(model, theirs, {**NORMED_TABLE, **left_out})
    kept = from_torch(model, theirs, {**NORMED_TABLE, **left_out}, model_state=state, strict=False)[
        1
    ]
    assert_same(kept, state)


# What does not fit.


def test_all_that_does_not_fit_is_told_with_the_nearest_names():
    theirs = {
        "encoder.weight": np.zeros((2, 3), np.float32),
        "encoder.bias": np.zeros(2, np.float32),
        "head.kernel": np.zeros((3, 4), np.float32),
        "head.bias": np.zeros(4, np.float16),
        "scale": np.zeros(7, np.float32),
        "other": np.ones(7, np.float32),
    }
    model = {
        "backbone": {"weight": jnp.zeros((2, 3)), "bias": jnp.zeros(2)},
        "readout": {"weight": jnp.zeros((4, 3)), "bias": jnp.zeros(4)},
        "gain": jnp.zeros(7),
    }
    table = {
        "head.kernel": "readout/weight",
        "head.bias": "readout/bias",
        "scale": "gain",
        "other": "gain",
    }
    with pytest.raises(TreeError) as told:
        from_torch(model, theirs, table)
    assert (
        str(told.value).splitlines()
        == """\
The state dict and the model do not fit:
  missing     `backbone/bias` float32[2] is given by no name; of its shape there is `encoder.bias`
  missing     `backbone/weight` float32[2,3] is given by no name; of its shape there is \
`encoder.weight`
  unexpected  `encoder.weight` float32[2,3] goes to `encoder/weight`, not in the model; of its \
shape there is `backbone/weight`
  unexpected  `encoder.bias` float32[2] goes to `encoder/bias`, not in the model; of its shape \
there is `backbone/bias`
  unlike      `head.kernel` float32[3,4] goes to `readout/weight` float32[4,3]: \
`Transposed('readout/weight')`?
  unlike      `head.bias` float16[4] goes to `readout/bias` float32[4]
  twice       `gain` is given by `scale` already, and by `other`, which \
differs
Say in `rename` where each goes; None leaves one out. `cast=True` makes numbers of one precision \
those of another. `strict=False` takes what fits, and leaves the rest as it is.""".splitlines()
    )
    # Height and width do not change places.
    kernel = {"conv.kernel": np.zeros((3, 3, 2, 4), np.float32)}
    with pytest.raises(TreeError, match=r"`Transposed\('conv/kernel', \(3, 2, 0, 1\)\)`\?"):
        from_torch({"conv": {"kernel": jnp.zeros((4, 2, 3, 3))}}, kernel)
    with pytest.raises(TreeError, match="do not fit"):
        to_torch(model, theirs, table)
    # A precision is cast, a shape is not.
    with pytest.raises(TreeError, match=r"leaves one out\. `strict=False` takes what fits"):
        from_torch({"a": jnp.zeros(3)}, {"a": np.zeros(4, np.float32)})


def test_a_weight_that_is_tied_has_two_names_and_one_place():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 2)).astype(np.float32)
    theirs = {"embed.weight": weight, "readout.weight": weight.copy()}
    model = {"embed": {"weight": jnp.zeros((3, 2))}}
    table = {"readout.weight": "embed/weight"}
    loaded = from_torch(model, theirs, table)
    assert_same(loaded, {"embed": {"weight": jnp.asarray(weight)}})
    # Both are written: a module that ties them takes whichever comes last.
    trained = {"embed": {"weight": loaded["embed"]["weight"] + 1}}
    back = to_torch(trained, theirs, table)
    assert_same(back, dict.fromkeys(theirs, np.asarray(trained["embed"]["weight"])))
    assert_same(from_torch(model, back, table), trained)
    # Neither is taken for the other, nor half of it, where they differ.
    with pytest.raises(
        TreeError, match=r"`embed\.weight` already, and by `readout\.weight`, which"
    ):
        from_torch(model, {**theirs, "readout.weight": weight + 1}, table)
    square = {"embed": {"weight": jnp.zeros((2, 2))}}
    same = dict.fromkeys(theirs, weight[:2])
    turned = {"readout.weight": Transposed("embed/weight")}
    for convert in (from_torch, to_torch):
        with pytest.raises(TreeError, match=r"`readout\.weight`, which differs"):
            convert(square, same, turned)


def test_a_name_without_its_shape_is_told_with_what_is_called_alike():
    with pytest.raises(TreeError, match=r"`fc/weight` float32\[3\] is given by no name; of a "):
        from_torch({"fc": {"weight": jnp.zeros(3)}}, {"fc.weights": np.zeros(5, np.float32)})


def test_globs_that_match_nothing_are_all_told():
    theirs = state_dict_of(MLP_SHAPES)
    table = MLP_TABLE | {"1.*": "layers/0/*", "0.weigth": "layers/0/weight"}
    with pytest.raises(TreeError, match=r"match none of the 4 names") as told:
        from_torch(make_mlp(), theirs, table)
    assert "`1.*`" in str(told.value)
    assert "`0.weigth`, which has `0.weight`" in str(told.value)


def test_the_first_glob_counts():
    theirs = {"a.w": np.ones(2, np.float32), "b.w": np.zeros(2, np.float32)}
    found = from_torch({"x": jnp.zeros(2), "b": jnp.ones(2)}, theirs, {"a.w": "x", "*.w": "*"})
    assert_same(found, {"x": jnp.ones(2), "b": jnp.zeros(2)})


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ([("0.*", "x")], ArgumentTypeError, r"must be a dictionary, .* not of type list"),
        ({"0.*": 3}, ArgumentTypeError, r"has '0\.\*': 3\. A name"),
        ({3: "layers"}, ArgumentTypeError, r"has 3: 'layers'"),
        (
            {"0.*": "layers/0/weight"},
            ArgumentValueError,
            r"the same signs \(\*\) in the same order",
        ),
        ({"0.*": Transposed("x")}, ArgumentValueError, r"has '0\.\*': 'x'"),
        ({"0.*": Split("x/*", "y")}, ArgumentValueError, r"has '0\.\*': 'y'"),
        ({"0.*": Split()}, ArgumentValueError, "names no place"),
        ({"0.*": Split(3)}, ArgumentTypeError, "with a place 3"),
        (
            {"0.weight": Transposed("layers/0/weight", (0,))},
            TreeError,
            r"2 axes, not .*\(=\(0,\)\)",
        ),
        (
            {"0.weight": Transposed("layers/0/weight", (0, 1), flipped=(2,))},
            TreeError,
            r"whose axes are not those of `flipped` \(=\(2,\)\)",
        ),
        (
            {"0.weight": Transposed("layers/0/weight", (0, 1), flipped=(1, -1))},
            TreeError,
            "not those of `flipped`",
        ),
        ({"0.weight": Transposed("a", 1)}, ArgumentTypeError, "must be tuples of whole numbers"),  # pyright: ignore[reportArgumentType]
        (
            {"0.weight": Split("layers/0/weight", "layers/1/weight", axis=2)},
            TreeError,
            "no `axis` 2",
        ),
        (
            {"0.weight": Split("layers/0/weight", "layers/1/weight")},
            TreeError,
            "unlike +`0.weight`",
        ),
        ({"0.weight": Split("layers/0/weight", "layers/1/bias")}, TreeError, "unlike +`0.weight`"),
    ],
)
def test_tables_that_cannot_be_used(table, error, message):
    with pytest.raises(error, match=message):
        from_torch(make_mlp(), state_dict_of(MLP_SHAPES), table)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ([1], "`state_dict` is of type list: give a dictionary of names"),
        ({0: np.zeros(2, np.float32)}, "`state_dict` has the name 0, and names are strings"),
        ({"epoch": 3}, r"has 'epoch' of type int, .*checkpoint\['state_dict'\]"),
        ({"w": np.array(["a", "b"])}, r"unlike +`w` str32\[2\] goes to `w` float32\[2\]"),
        ({"w": jax.ShapeDtypeStruct((2,), jnp.float32)}, "'w' without numbers"),
    ],
)
def test_what_is_no_state_dict(theirs, message):
    for cast in (False, True):
        with pytest.raises(treadle.TreadleError, match=message):
            from_torch({"w": jnp.zeros(2)}, theirs, cast=cast)


@pytest.mark.parametrize("model", ["module", "class"])
def test_what_is_no_model(model):
    if model == "class":
        wrong = eqx.nn.Linear
    else:
        wrong = pytest.importorskip("torch").nn.Linear(2, 3)
    for use in (from_torch, to_torch):
        with pytest.raises(ArgumentTypeError, match=r"`model` is the .* Linear: give the"):
            use(wrong, {"weight": np.zeros((3, 2), np.float32)})


def test_a_word_in_front_of_every_name_is_seen():
    theirs = {f"module.{name}": array for name, array in state_dict_of(MLP_SHAPES).items()}
    table = {f"module.{name}": path for name, path in MLP_TABLE.items()}
    model = from_torch(make_mlp(), theirs, table)
    theirs = {f"module/{name}": array for name, array in treadle.tree.to_dict(model).items()}
    theirs = {name: array for name, array in theirs.items() if eqx.is_array(array)}
    with pytest.raises(TreeError, match=r"`\{'module\.\*\*': '\*\*'\}` takes 'module' off") as told:
        from_torch(make_mlp(), {name.replace("/", "."): a for name, a in theirs.items()})
    assert str(told.value).count("off the names") == 1
    again = from_torch(
        make_mlp(), {name.replace("/", "."): a for name, a in theirs.items()}, {"module.**": "**"}
    )
    assert_same(again, model)


def test_a_model_of_shapes_has_nothing_to_give():
    shapes = {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}
    with pytest.raises(ArgumentTypeError, match="only shapes, and no numbers to give, at 'w'"):
        to_torch(shapes, {"w": np.zeros(2, np.float32)})


def test_the_order_of_bytes_is_no_matter_of_the_numbers():
    found = from_torch({"w": jnp.zeros(2)}, {"w": np.array([1, 2], ">f4")})
    assert_same(found, {"w": jnp.array([1.0, 2.0])})


def test_numbers_of_another_precision_only_when_asked():
    theirs = {"w": np.array([1, 70000], np.float32), "n": np.array(3, np.int64)}
    model = {"w": jnp.zeros(2, jnp.bfloat16), "n": jnp.zeros((), jnp.int32)}
    with pytest.raises(
        TreeError, match=r"`w` float32\[2\] goes to `w` bfloat16.*(?s:.)*`cast=True`"
    ):
        from_torch(model, theirs)
    found = from_torch(model, theirs, cast=True)
    assert (found["w"].dtype, found["n"].tolist()) == ("bfloat16", 3)
    again = to_torch(found, theirs, cast=True)
    assert (again["w"].dtype, again["n"].dtype) == ("float32", "int64")
    model["w"] = jnp.zeros(2, jnp.float16)
    with pytest.raises(treadle.CheckpointError, match=r"`w` of `state_dict` cannot be cast.*70000"):
        from_torch(model, theirs, cast=True)
    with pytest.raises(TreeError, match=r"unlike +`n`"):
        from_torch({"w": jnp.zeros(2), "n": jnp.zeros(())}, theirs, cast=True)


def test_a_part_is_loaded_when_asked_and_the_rest_stays(caplog):
    theirs = state_dict_of(MLP_SHAPES)
    wider = treadle.nn.MLP(4, 5, width=8, depth=1, key=jax.random.key(0))
    found = from_torch(wider, theirs, MLP_TABLE, strict=False)
    assert_same(found.layers[1], wider.layers[1])
    np.testing.assert_array_equal(found.layers[0].weight, theirs["0.weight"])
    assert "fit in part" in caplog.text
    assert "`2.weight` float32[3,8] goes to `layers/1/weight` float32[5,8]" in caplog.text
    again = to_torch(
        found, {k: np.zeros_like(v) for k, v in theirs.items()}, MLP_TABLE, strict=False
    )
    np.testing.assert_array_equal(again["0.bias"], theirs["0.bias"])
    assert not np.any(again["2.bias"])
    shapes = eqx.filter_eval_shape(lambda: wider)
    with pytest.raises(TreeError, match=r"gives nothing for 'layers/1/weight'.* only shapes"):
        from_torch(shapes, theirs, MLP_TABLE, strict=False)


def test_what_is_no_array_of_numbers_stays():
    model = {"w": jnp.zeros(2), "key": jax.random.key(3), "rate": 0.5, "f": jax.nn.relu}
    found = from_torch(model, {"w": np.ones(2, np.float32)})
    assert_same(found, {**model, "w": jnp.ones(2)})


def test_arrays_go_where_those_of_the_model_are():
    device = jax.devices()[2]
    model = {"w": jax.device_put(jnp.zeros(2), device)}
    found = from_torch(model, {"w": np.ones(2, np.float32)})
    assert found["w"].devices() == {device}
