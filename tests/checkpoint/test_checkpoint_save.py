"""`treadle.save` and `treadle.load`: what a leaf is on disk, and what does not fit."""

import enum
import io
import json
import math
import os
import pathlib
import pickle
import struct

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import xxhash
from jax.sharding import NamedSharding, PartitionSpec
from tests.helpers import Net, assert_same, loss_fn, make_batch

import treadle
from treadle import CheckpointError, TreadleError
from treadle._compat import enable_x64
from treadle.checkpoint import load, read_metadata, save, storage_like

LEAVES = "leaves-00000.eqx"


def manifest(path):
    return json.loads((path / "manifest.json").read_text())


def leaves_in(path):
    return {leaf["path"]: leaf for leaf in manifest(path)["leaves"]}


def test_a_checkpoint_is_a_folder_of_two_files(tmp_path):
    tree = {"layers": [{"weight": jnp.ones((2, 3)), "bias": np.zeros(3)}], "f": jax.nn.relu}
    save(tmp_path / "a" / "model", tree)
    assert sorted(os.listdir(tmp_path / "a")) == ["model"]
    assert sorted(os.listdir(tmp_path / "a" / "model")) == [LEAVES, "manifest.json"]
    read = manifest(tmp_path / "a" / "model")
    assert (read["format"], read["version"]) == ("treadle-checkpoint", 2)
    assert read["versions"]["jax"] == jax.__version__
    leaves = leaves_in(tmp_path / "a" / "model")
    assert list(leaves) == ["layers/0/bias", "layers/0/weight"]
    assert leaves["layers/0/weight"]["shape"] == [2, 3]
    assert leaves["layers/0/weight"]["dtype"] == "float32"
    sizes = [leaf["nbytes"] for leaf in leaves.values()]
    assert [leaf["offset"] for leaf in leaves.values()] == [0, sizes[0]]
    assert os.path.getsize(tmp_path / "a" / "model" / LEAVES) == sum(sizes)


def test_plain_equinox_reads_the_leaves(tmp_path):
    model = Net(jax.random.key(0))
    save(tmp_path / "model", model)
    assert_same(eqx.tree_deserialise_leaves(tmp_path / "model" / LEAVES, model), model)


class Colour(enum.IntEnum):
    RED = 3


def test_plain_equinox_reads_carriers(tmp_path):
    tree = {
        "key": jax.random.split(jax.random.key(0), 3),
        "float8": jnp.array([1.5, -2.0], jnp.float8_e4m3fn),
        "int4": np.arange(-3, 3).astype(ml_dtypes.int4),
        "scalar": ml_dtypes.float8_e5m2(1.0),
        "numpy_bfloat16": np.ones(2, ml_dtypes.bfloat16),
        "jax_bfloat16": jnp.ones(2, jnp.bfloat16),
        "large": -(10**40),
        "small": 7,
        "colour": Colour.RED,
        "name": "net",
        "struct": np.ones(()),
    }
    save(tmp_path / "t", tree)
    read = eqx.tree_deserialise_leaves(tmp_path / "t" / LEAVES, storage_like(tree))
    assert jnp.array_equal(read["key"], jax.random.key_data(tree["key"]))
    assert read["float8"].dtype == read["int4"].dtype == read["scalar"].dtype == np.uint8
    assert np.array_equal(read["float8"], np.asarray(tree["float8"]).view(np.uint8))
    assert np.array_equal(read["int4"].view(ml_dtypes.int4), tree["int4"])
    assert read["scalar"].view(ml_dtypes.float8_e5m2) == 1.0
    assert read["numpy_bfloat16"].dtype == np.uint16
    assert read["jax_bfloat16"].dtype == jnp.bfloat16
    assert (read["large"], read["small"], read["name"]) == (hex(-(10**40)), 7, "net")
    leaves = leaves_in(tmp_path / "t")
    assert leaves["key"]["key_implementation"] == "threefry2x32"
    assert (leaves["key"]["shape"], leaves["key"]["storage"]) == ([3], "uint32")
    assert leaves["large"]["value"] == hex(-(10**40))
    assert "storage" not in leaves["large"]
    assert "colour" not in leaves
    assert "name" not in leaves


def test_storage_like_takes_structs(tmp_path):
    tree = {"key": jax.random.key(0, impl="rbg"), "float8": jnp.ones((2, 1), jnp.float8_e5m2)}
    save(tmp_path / "t", tree)
    like = storage_like(jax.eval_shape(lambda: tree))
    assert like == {
        "key": jax.ShapeDtypeStruct((4,), np.uint32),
        "float8": jax.ShapeDtypeStruct((2, 1), np.uint8),
    }
    eqx.tree_deserialise_leaves(tmp_path / "t" / LEAVES, like)


def test_arrays_come_back_as_what_like_has(tmp_path):
    saved = {"a": jnp.arange(3), "b": np.arange(4.0), "c": np.float32(2), "k": jax.random.key(3)}
    save(tmp_path / "t", saved)
    like = {
        "a": np.zeros(3, np.int32),
        "b": jax.ShapeDtypeStruct((4,), np.float64),
        "c": jnp.zeros(()),
        "k": jax.eval_shape(lambda: jax.random.key(0)),
    }
    read = load(tmp_path / "t", like)
    assert type(read["a"]) is np.ndarray
    assert read["a"].flags.writeable
    assert isinstance(read["b"], jax.Array)
    assert read["b"].dtype == np.float64
    assert isinstance(read["c"], jax.Array)
    assert jax.random.bits(read["k"]) == jax.random.bits(saved["k"])
    for leaf in (read["b"], read["c"], read["k"]):
        assert not leaf.committed
        assert leaf.devices() == {jax.devices()[0]}
    assert not read["c"].weak_type
    assert type(load(tmp_path / "t", saved)["c"]) is np.float32


def test_arrays_come_back_where_like_was_put(tmp_path):
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    split = NamedSharding(mesh, PartitionSpec("data"))
    tree = {
        "weak": jnp.asarray(1.0),
        "split": jax.device_put(np.arange(6.0), split),
        "copied": jax.device_put(np.arange(6.0), NamedSharding(mesh, PartitionSpec())),
        "elsewhere": jax.device_put(np.arange(6.0), jax.devices()[-1]),
        "key": jax.device_put(jax.random.key(0), jax.devices()[-1]),
    }
    assert tree["weak"].weak_type
    save(tmp_path / "t", tree)
    read = load(tmp_path / "t", tree)
    for name, leaf in read.items():
        assert_same(leaf, tree[name] if name == "key" else np.asarray(tree[name]))
        assert name == "key" or not leaf.weak_type
        assert leaf.sharding == tree[name].sharding
        assert leaf.committed == (name != "weak")
    # Saved on two devices, wanted on one, or the other way round.
    plain = {
        name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in tree.items() if name != "key"
    }
    read = load(tmp_path / "t", plain | {"key": jax.random.key(1)})
    for leaf in jax.tree.leaves(read):
        assert not leaf.committed
        assert leaf.devices() == {jax.devices()[0]}
    struct = jax.ShapeDtypeStruct((6,), jnp.float32, sharding=split)
    read = load(tmp_path / "t", struct, rename={"elsewhere": ""}, strict=False)
    assert read.sharding == split
    assert read.tolist() == list(range(6))


def test_a_save_leaves_no_copy_on_the_host(tmp_path):
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    array, other = (
        jax.device_put(np.arange(6.0), NamedSharding(mesh, PartitionSpec("data"))) for _ in "ab"
    )
    np.asarray(other)
    if getattr(other, "_npy_value", None) is None:
        pytest.skip("this jax keeps its copies elsewhere")
    save(tmp_path / "t", array)
    assert array._npy_value is None


def test_what_is_not_saved_comes_from_like(tmp_path):
    save(tmp_path / "t", {"f": jax.nn.relu, "name": "old", "x": 1, "none": None})
    read = load(tmp_path / "t", {"f": jax.nn.gelu, "name": "new", "x": 2, "none": None})
    assert read == {"f": jax.nn.gelu, "name": "new", "x": 1, "none": None}


@pytest.mark.parametrize("tree", [{}, None, jax.nn.relu, 3, jnp.ones(2), np.zeros((0, 2))])
def test_trees_of_few_leaves(tmp_path, tree):
    save(tmp_path / "t", tree)
    assert_same(load(tmp_path / "t", tree), tree)


@pytest.mark.parametrize(
    ("bits", "dtype"),
    [
        (0x7FA00001, "float32"),
        (0xFFC12345, "float32"),
        (0x80000000, "float32"),
        (0x7FF0000000000001, "float64"),
        (0x7FA1, "bfloat16"),
        (0x7E01, "float16"),
    ],
)
def test_every_bit_of_a_nan_is_kept(tmp_path, bits, dtype):
    array = np.array([bits], f"u{jnp.dtype(dtype).itemsize}").view(jnp.dtype(dtype))
    with enable_x64(True):
        tree = {"numpy": array, "jax": jax.device_put(array)}
    save(tmp_path / "t", tree)
    read = load(tmp_path / "t", tree)
    assert read["numpy"].tobytes() == np.asarray(read["jax"]).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        2**63,
        -(2**63) - 1,
        1j,
        -0.0,
        float("inf"),
        math.nan,
    ],
)
def test_python_numbers_keep_type_and_value(tmp_path, value):
    save(tmp_path / "t", [value])
    # What stands in `like` may be of another size.
    for other in (type(value)(), type(value)(1), value):
        (read,) = load(tmp_path / "t", [other])
        assert type(read) is type(value)
        assert read == value or value != value
    if isinstance(value, float):
        assert struct.pack("d", read) == struct.pack("d", value)


def test_integers_of_any_size_are_kept(tmp_path):
    tree = [10**50, -(10**50), 10**5_000]
    save(tmp_path / "t", tree)
    assert load(tmp_path / "t", [0, 0, 0]) == tree


def test_the_order_of_memory_and_of_bytes_is_kept(tmp_path):
    tree = [
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.arange(3, dtype=">f4"),
        np.array(["ab", "c"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.arange(6).astype(ml_dtypes.int4).reshape(2, 3).T,
    ]
    save(tmp_path / "t", tree)
    read = load(tmp_path / "t", tree)
    for before, after in zip(tree, read, strict=True):
        assert after.dtype == before.dtype
        assert np.array_equal(after, before)
    assert read[0].flags.f_contiguous
    tree[2] = tree[2].astype("f4")
    with pytest.raises(CheckpointError, match=r"`2` is >f4\[3\] .* and float32\[3\] in `like`"):
        load(tmp_path / "t", tree)


def test_a_state_goes_under_the_names_of_its_views_and_trains_on(tmp_path):
    step = treadle.TrainStep(loss_fn, optax.adamw(1e-3))
    state = step.init(Net(jax.random.key(0)), key=jax.random.key(1))
    state, _ = step(state, make_batch())
    save(tmp_path / "t", state)
    names = list(leaves_in(tmp_path / "t"))
    assert "model/first/weight" in names
    assert "step" in names
    assert any(name.startswith("opt_state/") for name in names)
    like = step.init(Net(jax.random.key(5)), key=jax.random.key(6))
    read = load(tmp_path / "t", like)
    assert_same(read, state)
    (after, _), (read_after, _) = step(state, make_batch(seed=1)), step(read, make_batch(seed=1))
    assert_same(read_after, after)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), after)
    assert_same(load(tmp_path / "t", shapes).step, jnp.asarray(1, after.step.dtype))


def test_what_does_not_fit_is_told_leaf_by_leaf_all_at_once(tmp_path):
    layer = {"weight": jnp.ones((2, 3)), "bias": jnp.ones(3), "scale": jnp.ones(3)}
    save(tmp_path / "t", {"layer": layer, "key": jax.random.key(0), "n": 1, "m": 1, "gone": 1.0})
    like = {
        "layer": {"wieght": jnp.ones((2, 3)), "bias": jnp.ones(4), "scale": np.ones(3)},
        "key": jax.random.key(0, impl="rbg"),
        "n": True,
        "m": jnp.asarray(1),
        "gone": "text",
    }
    with pytest.raises(CheckpointError, match="does not fit `like`: it has 7 leaves") as raised:
        load(tmp_path / "t", like)
    lines = str(raised.value).splitlines()
    weight = "float32[2,3]"
    assert [line.strip() for line in lines[1:-1]] == [
        f"missing     `layer/wieght` {weight} is not in the checkpoint, which has `layer/weight`",
        "unexpected  `gone` python float is not in `like`",
        f"unexpected  `layer/weight` {weight} is not in `like`, which has `layer/wieght`",
        "dtype       `key` is key<threefry2x32>[] in the checkpoint and key<rbg>[] in `like`",
        "shape       `layer/bias` is float32[3] in the checkpoint and float32[4] in `like`",
        "dtype       `layer/scale` is float32[3] in the checkpoint and float64[3] in `like`",
        "dtype       `m` is python int in the checkpoint and int32[] in `like`",
        "dtype       `n` is python int in the checkpoint and python bool in `like`",
    ]
    assert "nothing is cast or reshaped" in lines[-1]
    assert "To load 1 of 6 leaves and keep the rest of `like`: " in lines[-1]


def test_a_wholly_different_tree_is_told_at_once(tmp_path):
    # Comparing thousands of names with thousands of names would take minutes.
    save(tmp_path / "t", {f"layer_{at}_weight": 0 for at in range(2_000)})
    with pytest.raises(CheckpointError, match="does not fit") as raised:
        load(tmp_path / "t", {f"layer_{at}_wieght": 0 for at in range(2_000)})
    lines = str(raised.value).splitlines()
    assert len(lines) == 4_002
    assert lines[1].endswith("which has `layer_0_weight`")


def test_metadata_comes_back_as_json(tmp_path):
    metadata = {"width": 64, "names": ("a", "b"), "deep": {"x": [None, True, 1.5]}, "é": "\ud800"}
    save(tmp_path / "t", {}, metadata=metadata)
    assert read_metadata(tmp_path / "t") == metadata | {"names": ["a", "b"]}
    save(tmp_path / "nan", {}, metadata={"best": float("inf")})
    assert read_metadata(tmp_path / "nan") == {"best": float("inf")}
    save(tmp_path / "none", {})
    assert read_metadata(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([1], r"`metadata` \(=\[1\]\) must be a dictionary, not of type list"),
        ({1: 2}, r"`metadata` has the key 1 of type int.*`str\(key\)`"),
        ({"a": [{2: 2}]}, r"`metadata\['a'\]\[0\]` has the key 2"),
        ({"a": np.zeros(2)}, r"`metadata\['a'\]` \(=array.* is of type ndarray, .* not JSON"),
        ({"a": (0, {1})}, r"`metadata\['a'\]\[1\]` \(=\{1\}\) is of type set"),
    ],
)
def test_metadata_that_is_not_json_is_told(tmp_path, metadata, message):
    with pytest.raises(TypeError, match=message) as raised:
        save(tmp_path / "t", {}, metadata=metadata)
    assert isinstance(raised.value, TreadleError)
    assert os.listdir(tmp_path) == []


def _nested():
    tree = {}
    for _ in range(10_000):
        tree = {"a": tree}
    return tree


def _endless():
    tree = {}
    tree["a"] = tree
    return tree


@pytest.mark.parametrize("metadata", [{"a": 10**5_000}, _nested(), _endless()])
def test_metadata_that_json_cannot_hold_is_told(tmp_path, metadata):
    with pytest.raises(treadle.ArgumentTypeError, match="`metadata` cannot be written as JSON"):
        save(tmp_path / "c", {}, metadata=metadata)


class StandsForAnArray:
    def __jax_array__(self):
        return jnp.ones(2)


class OfAnotherLibrary:
    dtype, shape = "float32", (2,)

    def __array__(self, dtype=None, copy=None):
        return np.ones(2, np.float32)


def deleted():
    array = jnp.ones(2)
    array.delete()
    return array


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: np.array([{}, None]), r"leaf `a/0` has dtype object, which could only be pickled"),
        (lambda: np.zeros(2, [("x", "f4")]), r"leaf `a/0` has dtype .*'x'.* only be pickled"),
        (OfAnotherLibrary, r"leaf `a/0` is a .*OfAnotherLibrary.*: put `np\.asarray\(leaf\)`"),
        (StandsForAnArray, r"leaf `a/0` is of type StandsForAnArray, which stands for an array"),
        (deleted, r"leaf `a/0` was deleted, most likely donated"),
        (lambda: jax.ShapeDtypeStruct((2,), np.float32), r"is a `jax\.ShapeDtypeStruct`"),
    ],
)
def test_leaves_that_cannot_be_saved_are_told(tmp_path, make, message):
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path / "t", {"a": [make()]})
    assert os.listdir(tmp_path) == []


def test_saving_inside_jit_is_told(tmp_path):
    @jax.jit
    def f(x):
        save(tmp_path / "t", x)

    with pytest.raises(CheckpointError, match=r"\(the tree itself\) is being traced: save outside"):
        f(jnp.ones(2))


@jax.tree_util.register_pytree_with_keys_class
class Twins:
    """Gives both of its children one name."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.DictKey("x"), child) for child in self.children], None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


def test_leaves_of_the_same_name_are_told_apart(tmp_path):
    save(tmp_path / "t", Twins(1, 2))
    names = [
        leaf["path"] for leaf in json.loads((tmp_path / "t/manifest.json").read_text())["leaves"]
    ]
    assert names == ["x", "x~2"]
    assert load(tmp_path / "t", Twins(0, 0)).children == (1, 2)


def test_a_path_that_exists_is_kept(tmp_path):
    save(tmp_path / "t", 1)
    with pytest.raises(CheckpointError, match=r"`path` .* exists already.*`overwrite=True`"):
        save(tmp_path / "t", 2)
    assert load(tmp_path / "t", 0) == 1
    save(tmp_path / "t", 2.0, overwrite=True)
    assert load(tmp_path / "t", 0.0) == 2.0
    assert os.listdir(tmp_path) == ["t"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_a_checkpoint_is_never_overwritten(tmp_path, overwrite):
    save(tmp_path / "real", 1)
    (tmp_path / "file").write_text("thesis")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("thesis")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "folder", "link"):
        with pytest.raises(CheckpointError, match=r"exists and is not a checkpoint, so it is not"):
            save(tmp_path / name, 2, overwrite=overwrite)
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "thesis"
    assert load(tmp_path / "link", 0) == 1


def test_paths_may_be_strings_and_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("t", 1)
    assert load("t", 0) == load(pathlib.Path("t"), 0) == 1
    with pytest.raises(CheckpointError, match=r"could not be written: .*File exists"):
        save("t/manifest.json/u", 1)


def test_nothing_there_is_told(tmp_path):
    for read in (lambda path: load(path, 0), read_metadata):
        with pytest.raises(FileNotFoundError, match=r"no checkpoint at `path` \(='.*missing'\)"):
            read(tmp_path / "missing")
        with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no manifest\.json"):
            read(tmp_path)
    (tmp_path / "model.eqx").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is a file, .*eqx\.tree_deserialise_leaves"):
        load(tmp_path / "model.eqx", 0)


def test_another_format_is_told(tmp_path):
    from treadle.checkpoint import _manifest as implementation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(implementation, "_VERSION", 3)
        save(tmp_path / "t", 1)
    with pytest.raises(CheckpointError, match=r"version 3, and this treadle reads .* version 2"):
        load(tmp_path / "t", 1)


def forge(path, raw):
    """Puts other bytes in the place of the only leaf, and makes the digests fit."""
    (path / LEAVES).write_bytes(raw)
    text = (path / "manifest.json").read_text()
    (leaf,) = manifest(path)["leaves"]
    text = text.replace(leaf["digest"], f"xxh3_128:{xxhash.xxh3_128_hexdigest(raw)}")
    text = text.replace(f'"nbytes": {leaf["nbytes"]}', f'"nbytes": {len(raw)}')
    digest = manifest(path)["digest"]
    blank = text.replace(digest, "xxh3_128:" + "0" * 32)
    fitting = "xxh3_128:" + xxhash.xxh3_128_hexdigest(blank.encode())
    (path / "manifest.json").write_text(text.replace(digest, fitting))


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_pickles_are_never_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    pickled = pickle.dumps(Evil())
    # As long as the array that the manifest tells of.
    like = np.zeros(len(pickled) // 8 + 1)
    save(tmp_path / "t", like)
    header = npy(like).replace(b"'<f8'", b"'|O'").replace(b" \n", b"  \n")[:128]
    forge(tmp_path / "t", header + pickled.ljust(like.nbytes, b"."))
    with pytest.raises(CheckpointError, match=r"damaged .*not an array in NumPy's format"):
        load(tmp_path / "t", like)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "other", [np.zeros((2, 1)), np.zeros((2, 1, 1)), np.zeros((1, 2), np.int64)]
)
def test_a_file_that_contradicts_the_manifest_is_told(tmp_path, other):
    save(tmp_path / "t", np.zeros((1, 2)))
    forge(tmp_path / "t", npy(np.ones((1, 2))))
    assert load(tmp_path / "t", np.zeros((1, 2))).tolist() == [[1, 1]]
    forge(tmp_path / "t", npy(other))
    with pytest.raises(CheckpointError, match=r"damaged at .*: the file has (float|int)64\["):
        load(tmp_path / "t", np.zeros((1, 2)))


def test_what_is_no_array_at_all_is_told(tmp_path):
    save(tmp_path / "t", np.zeros(1))
    forge(tmp_path / "t", b"thesis##" * 17)
    with pytest.raises(CheckpointError, match=r"damaged .* not an array in NumPy's format"):
        load(tmp_path / "t", np.zeros(1))
