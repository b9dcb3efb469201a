"""`export` and `load_exported`: the same figures without the model's code, for any batch."""

import dataclasses
import struct

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xxhash
from jax import export as jax_export

import treadle
from tests.helpers import run_script
from treadle._errors import ArgumentTypeError, ArgumentValueError, BatchError, ExportError
from treadle._export._format import Content, packed, unpacked


class Net(eqx.Module):
    """Two inputs, a dictionary out; dropout that must be off."""

    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        self.linear = eqx.nn.Linear(4, 3, key=key)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, example, *, key=None):
        x, scale = example
        logits = self.linear(self.dropout(x, key=key)) * scale
        return {"logits": logits, "label": jnp.argmax(logits)}


@pytest.fixture(scope="module")
def net():
    return Net(jax.random.key(0))


@pytest.fixture(scope="module")
def data(net):
    example = jax.ShapeDtypeStruct((4,), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    return treadle.export(net, example)


@pytest.fixture(scope="module")
def exported(data):
    return treadle.load_exported(data)


def batch_of(size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 4)).astype("f4"), rng.normal(size=size).astype("f4")


@pytest.mark.parametrize("size", [1, 2, 7])
def test_computes_what_predict_does(net, exported, size):
    batch = batch_of(size)
    ours = exported(batch)
    theirs = treadle.predict(net, batch, batch_size=size)
    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(ours["label"], theirs["label"])


def test_says_what_it_takes_and_gives(exported):
    assert exported.batch == "b"
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [leaf.shape for leaf in jax.tree.leaves(exported.example)] == [(4,), ()]
    assert exported.output["logits"].shape == (3,)
    assert exported.output["label"].dtype == jnp.int32
    assert exported.versions["jax"] == jax.__version__
    assert repr(exported) == "Exported('Net', batch='b', platforms=('cpu', 'cuda', 'tpu'))"


def test_goes_into_other_programs(exported):
    batch = batch_of(3)
    np.testing.assert_array_equal(jax.jit(exported)(batch)["logits"], exported(batch)["logits"])


ALONE = """
import sys
import jax
import numpy as np

data = open(sys.argv[1], "rb").read()
program = jax.export.deserialize(bytearray(data))
x, scale = np.ones((2, 4), np.float32), np.ones(2, np.float32)
print(program.call((x, scale))["logits"].shape, "equinox" in sys.modules, "treadle" in sys.modules)
"""


def test_jax_alone_reads_it(data, tmp_path):
    (tmp_path / "net.bin").write_bytes(data)
    done = run_script("import jax.export\n" + ALONE, tmp_path / "net.bin")
    assert done.stdout.strip() == "(2, 3) False False", done.stderr


WITHOUT_EQUINOX = """
import sys
import equinox
import treadle

# Whoever touches anything of Equinox now fails.
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] == "equinox":
        vars(module).clear()
import numpy as np

predict = treadle.load_exported(sys.argv[1])
for size in (1, 2, 7):
    x, scale = np.ones((size, 4), np.float32), np.ones(size, np.float32)
    print(predict((x, scale))["logits"].shape)
"""


def test_neither_equinox_nor_the_code_of_the_model_is_used(data, tmp_path):
    (tmp_path / "net.bin").write_bytes(data)
    done = run_script(WITHOUT_EQUINOX, tmp_path / "net.bin")
    assert done.stdout.split("\n")[:3] == ["(1, 3)", "(2, 3)", "(7, 3)"], done.stderr


def test_from_a_file(data, tmp_path):
    (tmp_path / "net.bin").write_bytes(data)
    assert treadle.load_exported(tmp_path / "net.bin").name == "Net"
    assert treadle.load_exported(str(tmp_path / "net.bin")).name == "Net"
    with pytest.raises(FileNotFoundError, match=r"not\.bin"):
        treadle.load_exported(tmp_path / "not.bin")


def test_a_function_of_one_example(net):
    model = eqx.nn.inference_mode(net)

    def shifted(x):
        return model((x, jnp.float32(2.0)))["logits"], None

    exported = treadle.load_exported(treadle.export(shifted, jnp.zeros(4), platforms=["cpu"]))
    x, _ = batch_of(5)
    logits, nothing = exported(x)
    assert nothing is None
    assert exported.name == "shifted"
    expected = jax.vmap(model)((x, np.full(5, 2, "f4")))
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-6)


def test_a_training_state_with_the_state_of_its_layers():
    class Normed(eqx.Module):
        norm: eqx.nn.BatchNorm

        def __init__(self):
            self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="ema")

        def __call__(self, x, state):
            return self.norm(x, state)

    def loss_fn(model, model_state, x, key):
        y, model_state = model(x, model_state)
        return jnp.mean(y**2), model_state

    model, model_state = eqx.nn.make_with_state(Normed)()
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1), stateful=True, ema=0.9)
    state = step.init(model, key=jax.random.key(0), model_state=model_state)
    x = batch_of(6)[0]
    state, _ = step(state, x)
    exported = treadle.load_exported(treadle.export(state, x[0], weights="ema", platforms=["cpu"]))
    expected = treadle.predict(state, x, batch_size=6, weights="ema")
    np.testing.assert_allclose(exported(x), expected, rtol=1e-6)


def test_one_size(net):
    example = np.zeros(4, "f4"), np.float32(0)
    exported = treadle.load_exported(treadle.export(net, example, batch=2, platforms=["cpu"]))
    assert exported.batch == 2
    assert exported(batch_of(2))["label"].shape == (2,)
    with pytest.raises(BatchError, match=r"has 3 examples, and the program was exported for 2"):
        exported(batch_of(3))


def test_dropout_where_it_is_wanted(net):
    with pytest.raises(RuntimeError, match="Dropout requires a key"):
        treadle.export(net, (np.zeros(4, "f4"), np.float32(0)), inference=False)


# -- what cannot be exported -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ((), r"`example` \(=\(\)\) holds no arrays"),
        ((np.zeros(4, "f4"), 1.0), r"the Python number 1\.0 at '1'"),
        ((np.zeros(4, "f4"), "one"), r"has 'one' of type str at '1'"),
        (
            (np.zeros(4, ">f4"), np.float32(0)),
            r"is of dtype\('>f4'\) at '0', which JAX does not have",
        ),
        ((np.zeros(4, "f4"), np.array("a")), r"is of dtype\('<U1'\) at '1', which JAX does not"),
        ((np.zeros(4, "V2"), np.float32(0)), r"is of dtype\('V2'\) at '0', which JAX does not"),
        ((np.zeros(4), np.float32(0)), r"is of float64 at '0', which JAX has only with"),
        (
            (np.zeros(4, "f4"), jax.random.key(0)),
            r"random key at '1'.*`jax\.random\.key_data\(key\)",
        ),
    ],
)
def test_examples_that_are_none(net, example, says):
    with pytest.raises(ArgumentTypeError, match=says):
        treadle.export(net, example)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"batch": "2b"}, ArgumentValueError, r"`batch` \(='2b'\) must be a name"),
        (
            {"batch": "max"},
            ArgumentValueError,
            r"`batch` \(='max'\) is a word that JAX has another",
        ),
        ({"batch": 0}, ArgumentValueError, r"`batch` \(=0\)"),
        ({"platforms": "cpu"}, ArgumentTypeError, r"`platforms` \(='cpu'\) is a string"),
        ({"platforms": ["gpu"]}, ArgumentValueError, r"`platforms` has 'gpu'; there are 'cpu'"),
        ({"platforms": 3}, ArgumentTypeError, r"`platforms` \(=3\) must be a list"),
        ({"platforms": []}, ArgumentValueError, r"`platforms` is empty"),
        ({"weights": "ema"}, ArgumentValueError, r"`weights` \(='ema'\)"),
    ],
)
def test_options_that_cannot_be(net, options, error, says):
    with pytest.raises(error, match=says):
        treadle.export(net, (np.zeros(4, "f4"), np.float32(0)), **options)


def keyed(x, *, key):
    return x + jax.random.normal(key, x.shape)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Net, r"`model` is the class Net: give a model that was made of it"),
        ({"a": 1}, r"`model` is of type dict, which cannot be called"),
        (keyed, r"`model` draws: it wants a `key`"),
        (lambda x, state: (x, state), r"takes \(x, state\).*as a pair, `\(model, model_state\)`"),
        (lambda x, y, *, key: x, r"takes \(x, y, \*, key\): wrap it in a function of one example"),
    ],
)
def test_what_cannot_be_called_on_one_example(model, says):
    with pytest.raises(ArgumentTypeError, match=says):
        treadle.export(model, jnp.zeros(3))


def printing(x):
    jax.debug.print("{}", x)
    return x


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (printing, r"calls Python while it runs \(debug_\w+\), as `jax\.debug\.print`"),
        (
            lambda x: jax.lax.cond(
                jnp.sum(x) > 0,
                lambda: jax.pure_callback(np.sin, x, x, vmap_method="expand_dims"),
                lambda: x,
            ),
            r"calls Python while it runs \(pure_callback\)",
        ),
    ],
)
def test_a_program_that_needs_python_is_none(model, says):
    with pytest.raises(ArgumentValueError, match=says):
        treadle.export(model, jnp.zeros(3))


def test_a_model_that_draws_gets_its_key_of_an_input():
    def program(inputs):
        return keyed(inputs["x"], key=jax.random.key(inputs["seed"]))

    example = {"x": jnp.zeros(3), "seed": np.uint32(0)}
    exported = treadle.load_exported(treadle.export(program, example, platforms=["cpu"]))
    noise = exported({"x": np.zeros((2, 3), "f4"), "seed": np.array([5, 6], "u4")})
    np.testing.assert_allclose(noise[1], jax.random.normal(jax.random.key(6), (3,)), rtol=1e-6)


def test_outputs_and_inputs_of_classes_of_ones_own(net):
    class Box(eqx.Module):
        value: jax.Array

    with pytest.raises(ArgumentTypeError, match=r"What the model returns has a Box in it"):
        treadle.export(lambda x: (Box(x),), jnp.zeros(3))
    with pytest.raises(ArgumentTypeError, match=r"`example` has a Box in it"):
        treadle.export(lambda box: box.value, Box(jnp.zeros(3)))


# -- batches that do not fit -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (np.zeros((2, 4), "f4"), r"has the structure .* exported for"),
        ((np.zeros((2, 5), "f4"), np.zeros(2, "f4")), r"at '0' has the shape \(2, 5\): examples"),
        ((np.zeros(4, "f4"), np.float32(0)), r"One example goes as `x\[None\]`"),
        ((np.zeros((2, 4)), np.zeros(2, "f4")), r"of float64, .* exported for float32"),
        ((np.zeros((2, 4), "f4"), [0.0, 0.0]), r"has the structure"),
        ((np.zeros((2, 4), "f4"), 0.0), r"at '1' is of type float"),
        ((np.zeros((2, 4), "f4"), np.zeros(3, "f4")), r"differ in their leading size"),
        ((np.zeros((0, 4), "f4"), np.zeros(0, "f4")), r"is empty"),
    ],
)
def test_batches_that_do_not_fit(exported, batch, says):
    with pytest.raises(BatchError, match=says):
        exported(batch)


def test_another_platform(net):
    example = np.zeros(4, "f4"), np.float32(0)
    exported = treadle.load_exported(treadle.export(net, example, platforms=["tpu"]))
    with pytest.raises(ExportError, match=r"exported for tpu, and this is 'cpu'"):
        exported(batch_of(2))


# -- files that cannot be read ---------------------------------------------------------------------


def test_every_byte_is_covered(data):
    rng = np.random.default_rng(0)
    for at in [0, len(data) - 1, *rng.integers(0, len(data), 40)]:
        broken = bytearray(data)
        broken[at] ^= 1 << rng.integers(8)
        with pytest.raises(ExportError, match=r"`source` (is damaged|was not written)"):
            treadle.load_exported(bytes(broken))


@pytest.mark.parametrize("size", [0, 10, 36, 1_000, -1])
def test_cut_off(data, size):
    with pytest.raises(ExportError, match=r"was not written by `treadle\.export`, or its end"):
        treadle.load_exported(data[:size])


def test_a_file_of_a_newer_version(data):
    version = struct.pack("<I", 2)
    newer = data[:-28] + version + data[-24:-16]
    newer += xxhash.xxh3_128_digest(newer)
    with pytest.raises(ExportError, match=r"has version 2 of the format, .* reads 1: `pip"):
        treadle.load_exported(newer)


def of_jax(data, version, program=None):
    """The file as another JAX would have written it."""
    content = unpacked(data, "data")
    told = content.told | {"versions": {"jax": version}}
    return packed(Content(content.program if program is None else program, told))


def test_a_program_that_is_called_in_a_newer_way(data):
    program = jax_export.deserialize(bytearray(data))
    newer = dataclasses.replace(program, calling_convention_version=99).serialize()
    says = r"`source` was exported with jax 99\.0, .* \(version 99\) that jax .* does not know yet"
    with pytest.raises(ExportError, match=says):
        treadle.load_exported(of_jax(data, "99.0", bytes(newer)))


def test_a_program_that_jax_cannot_read(data):
    with pytest.raises(ExportError, match=r"exported with jax 99\.0, and jax .* cannot read it"):
        treadle.load_exported(of_jax(data, "99.0", b"of another layout"))


def test_a_program_that_jax_reads_and_cannot_run(data):
    program = jax_export.deserialize(bytearray(data))
    module = program.mlir_module_serialized
    unknown = dataclasses.replace(program, mlir_module_serialized=module[: len(module) // 2])
    serialized = bytes(unknown.serialize())
    says = (
        r"exported with jax 99\.0, and could not be run with the older jax .*`pip install -U jax`"
    )
    with pytest.raises(ExportError, match=says):
        treadle.load_exported(of_jax(data, "99.0", serialized))(batch_of(2))
    # Of the same version, it is what JAX says.
    with pytest.raises(Exception, match=r"(?i)deserializ") as told:
        treadle.load_exported(of_jax(data, jax.__version__, serialized))(batch_of(2))
    assert not isinstance(told.value, ExportError)


@pytest.mark.parametrize(
    "told",
    [
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[1]",
        b'{"batch": "b", "name": "n"}',
        b'{"batch": "b", "name": "n", "versions": "x"}',
        b'{"batch": true, "name": "n", "versions": {"jax": "1.0"}}',
        b'{"batch": "b", "versions": {"jax": "1.0"}}',
    ],
)
def test_what_a_hostile_file_says_of_its_program(told):
    front = b"program" + told + struct.pack("<QI8s", len(told), 1, b"treadle\n")
    with pytest.raises(ExportError, match=r"`source` was not written by `treadle\.export`: what"):
        treadle.load_exported(front + xxhash.xxh3_128_digest(front))


def test_a_hostile_length(data):
    front = data[:-36] + struct.pack("<QI8s", 2**63, 1, b"treadle\n")
    with pytest.raises(ExportError, match=r"9,223,372,036,854,775,808 bytes of it are promised"):
        treadle.load_exported(front + xxhash.xxh3_128_digest(front))


def test_a_version_that_is_none(data):
    program = treadle.load_exported(of_jax(data, "of tomorrow"))
    assert program(batch_of(2))["label"].shape == (2,)
    with pytest.raises(ExportError, match="exported with jax of tomorrow, and jax"):
        treadle.load_exported(of_jax(data, "of tomorrow", b"of another layout"))


def test_a_newer_jax_is_no_error_by_itself(data):
    assert treadle.load_exported(of_jax(data, "99.0"))(batch_of(2))["label"].shape == (2,)


def test_what_is_no_source():
    with pytest.raises(ArgumentTypeError, match=r"`source` is a int"):
        treadle.load_exported(3)  # pyright: ignore[reportArgumentType]


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(ExportError, match=r"' cannot be read: Is a directory\."):
        treadle.load_exported(tmp_path)
    with pytest.raises(FileNotFoundError, match="no_such_file"):
        treadle.load_exported(tmp_path / "no_such_file")


def test_without_flatbuffers(net, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(treadle.MissingExtraError, match=r"pip install 'treadle\[export\]'"):
        treadle.export(net, np.zeros(4, "f4"))


def test_the_format_is_as_it_is_described(data):
    length, version, magic, digest = struct.unpack("<QI8s16s", data[-36:])
    assert (version, magic) == (1, b"treadle\n")
    assert digest == xxhash.xxh3_128_digest(data[:-16])
    assert data[-36 - length : -36].startswith(b'{"batch": "b"')
