"""safetensors files: the package reads ours, we read the package's, and neither what is damaged."""

import errno
import json
import os
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors as package
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import assert_same

import treadle
from treadle import (
    ArgumentTypeError,
    CheckpointError,
    CheckpointNotFoundError,
    DamagedCheckpointError,
)
from treadle.interop.safetensors import _format, _save, load, read_metadata, save
from treadle.testing import check_serialisation

DTYPES = _format.DTYPES


ONES = np.ones(3, np.float32)


def array(dtype, shape=(2, 3), seed=0):
    """Any bits at all, but for booleans."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 256 if dtype.kind != "b" else 2, count, np.uint8)
    return raw.view(dtype).reshape(shape)


def file_of(header, data=b"", length=None):
    """A file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    return length.to_bytes(8, "little") + text + data


# What is kept.


@pytest.mark.parametrize("name", DTYPES)
def test_the_bits_of_every_dtype_are_kept(name, tmp_path):
    dtype = DTYPES[name]
    tree = {"a": array(dtype), "zero": array(dtype, (0, 2)), "one": array(dtype, ())}
    save(tmp_path / "file", tree)
    assert_same(load(tmp_path / "file", jax.tree.map(np.zeros_like, tree)), tree)
    header = json.loads((tmp_path / "file").read_bytes()[8:].split(b"}}")[0] + b"}}")
    assert header["a"]["dtype"] == name


shapes = st.sampled_from([(), (1,), (3,), (2, 3), (2, 0), (1, 2, 2)])
leaves = st.one_of(
    st.builds(
        lambda *spec: ("numpy", *spec),
        st.sampled_from(list(DTYPES.values())),
        shapes,
        st.integers(0, 99),
    ),
    st.builds(
        lambda *spec: ("jax", *spec),
        st.sampled_from([d for d in DTYPES.values() if d.itemsize < 8]),
        shapes,
        st.integers(0, 99),
    ),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.sampled_from([jax.nn.relu, "text"]),
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def made(spec):
    if not isinstance(spec, tuple):
        return spec
    kind, *rest = spec
    return array(*rest) if kind == "numpy" else jnp.asarray(array(*rest))


@given(specs=trees)
def test_what_is_saved_is_loaded_bit_for_bit(specs):
    tree = jax.tree.map(made, specs, is_leaf=lambda node: isinstance(node, tuple))
    if "__metadata__" not in treadle.tree.paths(tree):
        check_serialisation(tree, save=save, load=load)


class Net(eqx.Module):
    layers: tuple
    activation: object
    scale: float

    def __init__(self):
        one, two = jax.random.split(jax.random.key(0))
        self.layers = (eqx.nn.Linear(2, 3, key=one), eqx.nn.Linear(3, 1, key=two))
        self.activation = jax.nn.relu
        self.scale = 0.5


def test_names_are_paths_and_metadata_is_kept(tmp_path):
    save(tmp_path / "net", Net(), metadata={"width": "3", "ü": "\n"})
    assert read_metadata(tmp_path / "net") == {"width": "3", "ü": "\n"}
    found = load(tmp_path / "net")
    names = {name for name, leaf in treadle.tree.to_dict(Net()).items() if eqx.is_array(leaf)}
    assert found.keys() == names == package.numpy.load_file(tmp_path / "net").keys()
    assert_same(load(tmp_path / "net", Net()), Net())
    save(tmp_path / "leaf", jnp.ones(2))
    assert list(load(tmp_path / "leaf")) == [""]
    assert read_metadata(tmp_path / "leaf") == {}


def test_a_dictionary_of_names_is_saved_under_them(tmp_path):
    flat = treadle.tree.to_dict(Net())
    save(tmp_path / "flat", flat)
    save(tmp_path / "net", Net())
    assert (tmp_path / "flat").read_bytes() == (tmp_path / "net").read_bytes()
    assert_same(load(tmp_path / "flat", flat), flat)
    theirs = {"linear/~/w": ONES, "a~1b": 2 * ONES, "none": None}
    save(tmp_path / "theirs", theirs)
    assert_same(load(tmp_path / "theirs"), {"a~1b": 2 * ONES, "linear/~/w": ONES})
    assert_same(load(tmp_path / "theirs", theirs), theirs)
    # Inside of others a name is one step of a path.
    save(tmp_path / "nested", {"net": {"a/b": ONES}})
    assert list(load(tmp_path / "nested")) == ["net/a~1b"]


def test_pytorchs_tensors_are_not_left_out(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 3)
    save(tmp_path / "other", {"weight": ONES})
    for tree in (module.state_dict(), {"net": module.weight}, module):
        with pytest.raises(CheckpointError, match=r"of PyTorch's, and no array: give `tensor"):
            save(tmp_path / "file", tree)
        with pytest.raises(CheckpointError, match="of PyTorch's, and no array"):
            load(tmp_path / "other", tree)
    assert not (tmp_path / "file").exists()


def test_files_are_the_packages_byte_for_byte(tmp_path):
    tree = {name: array(dtype) for name, dtype in DTYPES.items() if "F8" not in name}
    tree |= {"b": array("float32", (3,)), "a": array("float32", ()), "é": array("int8", (0,))}
    save(tmp_path / "file", tree, metadata={"one": "thing"})
    assert (tmp_path / "file").read_bytes() == package.numpy.save(tree, {"one": "thing"})


def test_files_of_the_package_are_read(tmp_path):
    tree = {"a.weight": array("float16"), "a.bias": array("bool", (3,))}
    package.numpy.save_file(tree, tmp_path / "file", {"format": "pt"})
    assert_same(load(tmp_path / "file"), dict(sorted(tree.items(), key=lambda item: item[0][::-1])))
    assert read_metadata(tmp_path / "file") == {"format": "pt"}


def test_arrays_by_name_are_views_of_the_file(tmp_path):
    save(tmp_path / "file", {"a": np.zeros(3, np.float32)})
    found = load(tmp_path / "file")["a"]
    assert not found.flags.writeable
    with open(tmp_path / "file", "r+b") as file:
        file.seek(-12, os.SEEK_END)
        file.write(np.float32(7).tobytes())
    assert found.tolist() == [7, 0, 0]


def test_arrays_of_a_tree_are_their_own(tmp_path):
    size = 1 << 16  # Large enough for JAX to take memory as it is.
    save(tmp_path / "file", {"a": np.zeros(size, np.float32), "b": np.zeros(size, np.float32)})
    like = {"a": np.ones(size, np.float32), "b": jnp.ones(size)}
    found = load(tmp_path / "file", like)
    with open(tmp_path / "file", "r+b") as file:
        file.seek(-8 * size, os.SEEK_END)
        file.write(b"\1" * 8 * size)
    assert not np.any(found["a"])
    assert not np.any(found["b"])
    found["a"][0] = 1


def test_leaves_go_where_those_of_like_are(tmp_path):
    save(tmp_path / "file", {"w": np.arange(4, dtype=np.float32), "s": np.float32(2)})
    device = jax.devices()[1]
    where = jax.sharding.SingleDeviceSharding(device)
    like = {"w": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=where), "s": jnp.float32(0)}
    found = load(tmp_path / "file", like)
    assert found["w"].devices() == {device}
    assert found["s"] == 2


def test_floats_of_another_precision_only_when_asked(tmp_path):
    save(tmp_path / "file", {"w": np.array([1.5, 3.0], np.float32), "n": np.int32(3)})
    like = {"w": jnp.zeros(2, jnp.bfloat16), "n": np.int8(0)}
    with pytest.raises(
        CheckpointError, match=r"(?s)`w` is float32\[2\] in the file.*`cast=True`"
    ) as told:
        load(tmp_path / "file", like)
    assert "`n` is int32[] in the file and int8[] in `like`" in str(told.value)
    assert_same(
        load(tmp_path / "file", like, cast=True),
        {"w": jnp.array([1.5, 3.0], jnp.bfloat16), "n": np.int8(3)},
    )
    save(tmp_path / "large", {"w": np.ones(2, np.float32), "n": np.int32(300)})
    with pytest.raises(CheckpointError, match=r"`n` of .* cannot be cast .* 300"):
        load(tmp_path / "large", like, cast=True)
    with pytest.raises(CheckpointError, match=r"unlike +`n`"):
        load(tmp_path / "file", {"w": like["w"], "n": np.float32(1)}, cast=True)


# What does not fit.


def test_what_does_not_fit_is_told_leaf_by_leaf(tmp_path):
    save(tmp_path / "file", Net())
    wider = eqx.tree_at(lambda net: net.layers[1].weight, Net(), jnp.zeros((1, 5)))
    like = {"layer": list(wider.layers), "activation": jax.nn.relu, "layers": wider.layers[1:]}
    with pytest.raises(CheckpointError) as told:
        load(tmp_path / "file", like)
    lines = str(told.value).splitlines()
    assert "does not fit `like`" in lines[0]
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["missing", "`layer/0/weight`"],
        ["missing", "`layer/0/bias`"],
        ["missing", "`layer/1/weight`"],
        ["missing", "`layer/1/bias`"],
        ["unexpected", "`layers/1/bias`"],
        ["unexpected", "`layers/1/weight`"],
        ["unlike", "`layers/0/weight`"],
        ["unlike", "`layers/0/bias`"],
    ]
    assert "float32[1,5] is not in the file, which has `layers/1/weight`" in lines[3]
    assert "is float32[3,2] in the file and float32[1,5] in `like`" in lines[7]


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (jax.random.key(0), r"`w` is key<threefry2x32>\[\].*`jax.random.key_data`"),
        (np.zeros(2, np.complex128), r"`w` is complex128\[2\].*`treadle.tree.cast`"),
        (jnp.zeros(2, jnp.int4), r"`w` is int4\[2\]"),
        (np.array(["text"]), r"`w` is <U4\[1\]"),
        (np.zeros(2, ">f4"), r"`w` is >f4\[2\].*byte order"),
        (np.array([None]), "`w` has dtype object"),
        (jax.ShapeDtypeStruct((2,), jnp.float32), "`w` is a `jax.ShapeDtypeStruct`"),
    ],
)
def test_what_a_file_cannot_hold_is_told(leaf, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path / "file", {"w": leaf})
    assert not os.listdir(tmp_path)


def test_all_that_cannot_be_held_is_told_at_once(tmp_path):
    tree = {f"{at}": np.zeros(1, complex) for at in range(12)} | {
        "\ud800": ONES,
        "__metadata__": ONES,
    }
    with pytest.raises(CheckpointError, match=r"(?s)`0`.*`3`.*And 6 more") as told:
        save(tmp_path / "file", tree)
    assert len(str(told.value).splitlines()) == 9
    with pytest.raises(CheckpointError, match="no Unicode text"):
        save(tmp_path / "file", {"\ud800": ONES})
    with pytest.raises(CheckpointError, match="`__metadata__` has a name that is taken"):
        save(tmp_path / "file", {"__metadata__": ONES})
    with pytest.raises(CheckpointError, match="is being traced"):
        jax.jit(lambda x: save(tmp_path / "file", x))(ONES)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"width": 3}, "`metadata` has 'width': 3, .*`json.dumps`"),
        ([("a", "b")], "must be a dictionary of strings, not of type list"),
        ({"a": "\ud800"}, "no Unicode text"),
    ],
)
def test_metadata_that_cannot_be_held(metadata, message, tmp_path):
    with pytest.raises(ArgumentTypeError, match=message):
        save(tmp_path / "file", {}, metadata=metadata)


# Writing all at once.


def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path):
    save(tmp_path / "new" / "folder" / "file", {"w": ONES})
    path = tmp_path / "new" / "folder" / "file"
    with pytest.raises(CheckpointError, match=r"exists already.*`overwrite=True`"):
        save(path, {"w": 2 * ONES})
    assert_same(load(path, {"w": 0 * ONES}), {"w": ONES})
    save(path, {"w": 2 * ONES}, overwrite=True)
    assert_same(load(path, {"w": 0 * ONES}), {"w": 2 * ONES})
    with pytest.raises(CheckpointError, match="is a folder"):
        save(path.parent, {"w": 2 * ONES}, overwrite=True)
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("failing", ["fsync", "replace", "_write_leaf"])
def test_a_write_that_fails_leaves_what_was_there(failing, tmp_path, monkeypatch):
    path = tmp_path / "file"
    save(path, {"w": ONES})
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_save if failing == "_write_leaf" else os, failing, full)
    with pytest.raises(CheckpointError, match=r"could not be written.*No space left"):
        save(path, {"w": 2 * ONES}, overwrite=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupt_leaves_what_was_there(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_save, "_write_leaf", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "file", {"w": ONES})
    assert not os.listdir(tmp_path)


def test_the_file_and_its_name_are_synced_before_and_after(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))
        )
    save(tmp_path / "file", {"w": ONES})
    assert calls == ["fsync", "replace", "fsync"]


def test_large_arrays_are_written_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(_save, "_PIECE", 7)
    tree = {"w": np.arange(20.0), "t": np.arange(6.0).reshape(2, 3).T}
    save(tmp_path / "file", tree)
    assert_same(
        load(tmp_path / "file", jax.tree.map(np.zeros_like, tree)),
        jax.tree.map(np.ascontiguousarray, tree),
    )


# What is damaged, or made to do harm.

ONE = {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}


def entry(**changes):
    return {"a": ONE["a"] | changes}


def two(first, second):
    spans = {"a": first, "b": second}
    return {
        name: {"dtype": "U8", "shape": [b - a], "data_offsets": [a, b]}
        for name, (a, b) in spans.items()
    }


# The package reads those whose name ends in "!"; we do not.
HOSTILE = {
    "empty": (b"", "it has 0 bytes"),
    "only part of a length": (b"abc", "it has 3 bytes"),
    "length of nothing": (bytes(8), "not such JSON"),
    "huge length": (b"\xff" * 8 + b"{}", "a header of 18,446,744,073,709,551,615 bytes, and 2 f"),
    "length behind the end": (file_of(ONE, length=1000), "a header of 1,000 bytes"),
    "cut header": (file_of(ONE)[:20], "tell of a header of"),
    "cut data": (file_of(ONE, b"a"), "its arrays take 2 bytes, and it has 1: it is cut off"),
    "more data": (file_of(ONE, b"abc"), "1 bytes behind its arrays belong to none"),
    "not text": (file_of(b"\xff\xfe{}"), "not such JSON"),
    "not JSON": (file_of(b"{'a': 1}"), "not such JSON"),
    "a pickle": (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.", "a header of"),
    "NaN": (file_of(b'{"a": NaN}'), "NaN is not JSON"),
    "nested": (file_of(b"[" * 200_000), "not such JSON"),
    "nested objects": (file_of(b'{"a":' * 200_000), "not such JSON"),
    "a number without end": (
        file_of(b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,2]}}'),
        "not such JSON",
    ),
    "a list": (file_of([]), "a JSON list, not an object"),
    "twice a name!": (
        file_of(json.dumps(ONE).encode()[:-1] + b"," + json.dumps(ONE).encode()[1:], b"ab"),
        "a name stands in it twice",
    ),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "not an object of strings"),
    "metadata of none": (file_of({"__metadata__": []}), "not an object of strings"),
    "no entry": (file_of({"a": 3}), "'a' lacks a dtype"),
    "no offsets": (file_of({"a": {"dtype": "U8", "shape": [2]}}, b"ab"), "'a' lacks a dtype"),
    "unknown dtype": (file_of(entry(dtype="F128"), b"ab"), "has the dtype 'F128'"),
    "a dtype that is none": (file_of(entry(dtype=[1]), b"ab"), r"has the dtype \[1\]"),
    "negative shape": (file_of(entry(shape=[-2]), b"ab"), r"has the shape \[-2\]"),
    "two negative": (file_of(entry(shape=[-1, -2]), b"ab"), r"has the shape \[-1, -2\]"),
    "a shape of fractions": (file_of(entry(shape=[2.0]), b"ab"), r"has the shape \[2.0\]"),
    "a shape of truths": (file_of(entry(shape=[True, 2]), b"ab"), "has the shape"),
    "a shape that is none": (file_of(entry(shape=2), b"ab"), "has the shape 2"),
    "a hundred axes!": (file_of(entry(shape=[1] * 99 + [2]), b"ab"), "has the shape"),
    "a huge shape": (file_of(entry(shape=[2**62, 2**62]), b"ab"), "has 2 bytes, and"),
    "a huge empty shape": (
        file_of(entry(shape=[2**40, 2**40, 0], data_offsets=[0, 0])),
        "has 0 bytes, and",
    ),
    "a shape beyond": (file_of(entry(shape=[2**64]), b"ab"), "has the shape"),
    "another size": (file_of(entry(shape=[3]), b"ab"), r"has 2 bytes, and U8\[3\] takes 3"),
    "offsets reversed": (file_of(entry(data_offsets=[2, 0]), b"ab"), r"has the offsets \[2, 0\]"),
    "negative offsets": (file_of(entry(data_offsets=[-2, 0]), b"ab"), "has the offsets"),
    "three offsets": (file_of(entry(data_offsets=[0, 1, 2]), b"ab"), "has the offsets"),
    "offsets beyond": (file_of(entry(data_offsets=[2**70, 2**70 + 2]), b"ab"), "has the offs"),
    "offsets behind the end": (
        file_of(entry(data_offsets=[10, 12]), b"ab"),
        "before 'a' there are bytes of no array",
    ),
    "overlap": (file_of(two((0, 2), (1, 3)), b"abc"), "'b' overlaps 'a'"),
    "the same bytes": (file_of(two((0, 2), (0, 2)), b"ab"), "'b' overlaps 'a'"),
    "a gap": (file_of(two((0, 1), (2, 3)), b"abc"), "before 'b' there are bytes of no array"),
    "booleans of 7!": (file_of(entry(dtype="BOOL"), b"\1\7"), "neither 0 nor 1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_such_file_is_told(name, tmp_path):
    data, message = HOSTILE[name]
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(DamagedCheckpointError, match=message) as told:
        load(tmp_path / "file")
    assert "file' is no safetensors file, or damaged" in str(told.value)
    assert len(str(told.value)) < 400 + len(str(tmp_path))
    if not name.endswith("!"):
        with pytest.raises(package.SafetensorError):
            package.deserialize(data)


def test_what_the_package_reads_beside_is_read(tmp_path):
    more = {"a": ONE["a"] | {"comment": "more"}, "__metadata__": None}
    swapped = {"b": two((0, 1), (1, 2))["b"], "a": two((0, 1), (1, 2))["a"]}
    odd = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
    }
    for data in (file_of(more, b"ab"), file_of(swapped, b"ab"), file_of(odd, b"abcde")):
        (tmp_path / "file").write_bytes(data)
        found = {name: leaf.tobytes() for name, leaf in load(tmp_path / "file").items()}
        told = {name: bytes(tensor["data"]) for name, tensor in package.deserialize(data)}
        assert found == told
    like = {"a": jnp.zeros(1, jnp.uint8), "b": jnp.zeros(1)}
    assert load(tmp_path / "file", like)["b"] == np.frombuffer(b"bcde", np.float32)[0]


def test_packed_numbers_are_told(tmp_path):
    (tmp_path / "file").write_bytes(file_of(entry(dtype="F4", shape=[4]), b"ab"))
    with pytest.raises(CheckpointError, match="'a' of dtype F4, several numbers to a byte"):
        load(tmp_path / "file")


GOOD = _format.composed(
    _format.Header(
        _format.laid_out({"w": ("F32", (2,)), "b": ("BOOL", (2,)), "é/0": ("I64", ())}),
        {"k": "v"},
    )
)
GOOD += bytes(16 + 2)


@settings(max_examples=150)
@given(data=st.data())
def test_bytes_that_are_changed_or_cut_are_read_as_the_package_does_or_told(data):
    """No byte makes anything but an error of ours, and nothing is accepted that they refuse."""
    at = data.draw(st.integers(0, len(GOOD) - 1))
    kind = data.draw(st.sampled_from(["change", "cut", "insert"]))
    byte = bytes([data.draw(st.integers(0, 255))])
    changed = (
        GOOD[:at] + {"change": byte + GOOD[at + 1 :], "cut": b"", "insert": byte + GOOD[at:]}[kind]
    )
    path = pathlib.Path(os.environ["TREADLE_TEST_FILE"])
    path.write_bytes(changed)
    try:
        found = load(path)
    except CheckpointError:
        return
    theirs = dict(package.deserialize(changed))
    assert found.keys() == theirs.keys()
    assert all(found[name].tobytes() == bytes(theirs[name]["data"]) for name in theirs)


@pytest.fixture(autouse=True, scope="module")
def file_of_examples(tmp_path_factory):
    # A fixture's path cannot be handed to a test of many examples.
    os.environ["TREADLE_TEST_FILE"] = str(tmp_path_factory.mktemp("examples") / "file")
    yield
    del os.environ["TREADLE_TEST_FILE"]


def test_what_is_not_there_or_is_no_file(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="There is no file at `path`"):
        load(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"cannot be read|is no file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is no file but a folder, pipe or device"):
        load(tmp_path / "pipe")
    save(tmp_path / "file", {"w": ONES})
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert_same(load(tmp_path / "link", {"w": 0 * ONES}), {"w": ONES})
    assert read_metadata(tmp_path / "link") == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\3\4\x14\0\0\0rest", "a zip archive: `treadle.data.npz` reads .npz"),
        (b'{"weight_map": {}}', "JSON: of weights in several files it is the index"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS: `git lfs pull`"),
        (b"<!DOCTYPE html><html>", "a page of the web"),
        (b"<" + bytes(9), "or damaged: its first 8 bytes tell of a header of 60 bytes"),
    ],
)
def test_other_files_are_called_what_they_are(data, message, tmp_path):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(DamagedCheckpointError, match=message):
        load(tmp_path / "file")


@pytest.mark.parametrize(
    "use", [load, read_metadata, lambda path: save(path, {})], ids=["load", "metadata", "save"]
)
def test_what_is_no_path(use):
    with pytest.raises(ArgumentTypeError, match=r"`path` \(=3\) must be the path of a file"):
        use(3)


def test_a_header_too_long_to_be_one_is_not_read(tmp_path, monkeypatch):
    longest = _format.LONGEST_HEADER
    (tmp_path / "file").write_bytes((longest + 1).to_bytes(8, "little"))
    os.truncate(tmp_path / "file", longest + 100)  # Nothing of it lies on the disk.
    with pytest.raises(DamagedCheckpointError, match=r"\(at most 100,000,000 are read\)"):
        load(tmp_path / "file")
    monkeypatch.setattr(_save, "LONGEST_HEADER", 40)
    with pytest.raises(CheckpointError, match="The header would have 56 bytes, and 40 is the most"):
        save(tmp_path / "other", {"w": ONES})
