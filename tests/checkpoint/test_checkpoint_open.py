"""`treadle.checkpoint.open`: leaf by leaf, and no byte that was not asked for."""

import os
from collections.abc import Mapping
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import xxhash
from tests.helpers import assert_same

import treadle
from treadle import CheckpointError, LeafNotFoundError
from treadle._compat import enable_x64
from treadle.checkpoint import Checkpoint, Checkpointer, save
from treadle.checkpoint import open as open_checkpoint
from treadle.checkpoint._reader import LeafReader

LEAVES = "leaves-00000.eqx"
TREE = {
    "layers": [{"weight": np.arange(6.0).reshape(2, 3), "bias": np.zeros(2)}],
    "key": jax.random.key(3),
    "count": 7,
    "large": -(10**40),
}
PATHS = ["count", "key", "large", "layers/0/bias", "layers/0/weight"]


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "t", TREE, metadata={"width": 3})
    return tmp_path / "t"


@pytest.fixture
def saved(path):
    with open_checkpoint(path) as saved:
        yield saved


def test_it_is_a_mapping_from_paths_to_leaves(saved):
    assert isinstance(saved, Mapping)
    assert list(saved) == list(saved.keys()) == PATHS
    assert len(saved) == 5
    assert saved
    assert "layers/0/weight" in saved
    assert "layers/0" not in saved
    assert 3 not in saved
    assert_same(saved["layers/0/weight"], TREE["layers"][0]["weight"])
    assert saved.get("count") == 7
    assert saved.get("nothing") is None
    assert saved.get("nothing", 5) == 5
    assert saved.get(3) is None
    items = dict(saved.items())
    assert items["large"] == -(10**40)
    assert jax.random.bits(items["key"]) == jax.random.bits(TREE["key"])
    assert [type(leaf).__name__ for leaf in saved.values()] == [
        *("int", "PRNGKeyArray", "int", "ndarray", "ndarray")
    ]


def test_what_it_is_costs_no_reading(path):
    with (
        mock.patch.object(LeafReader, "read", side_effect=AssertionError),
        open_checkpoint(str(path)) as saved,
    ):
        assert saved.path == path
        assert saved.metadata == {"width": 3}
        assert saved.metrics == {}
        assert saved.versions["jax"] == jax.__version__
        assert saved.nbytes == os.path.getsize(path / LEAVES) == sum(saved.sizes.values())
        assert saved.sizes["large"] == 0
        assert saved.specs["layers/0/weight"].shape == (2, 3)
        assert {name: str(spec) for name, spec in saved.specs.items()} == {
            "count": "python int",
            "key": "key<threefry2x32>[]",
            "large": "python int",
            "layers/0/bias": "float64[2]",
            "layers/0/weight": "float64[2,3]",
        }
        assert repr(saved) == f"Checkpoint({str(path)!r}, 5 leaves, {saved.nbytes:,} bytes)"
        assert "layers/0/bias" in saved
        assert saved["large"] == -(10**40)


def test_static_fields_and_metrics_are_told(tmp_path):
    model = treadle.nn.MLP(2, 3, width=4, depth=1, key=jax.random.key(0))
    checkpointer = Checkpointer(tmp_path / "c", asynchronous=False)
    checkpointer.save(5, model, metrics={"loss": 0.5})
    with open_checkpoint(tmp_path / "c" / "step_00000005") as saved:
        assert saved.static["layers/0/in_features"] == "2"
        assert saved.metrics == {"loss": 0.5}


def test_only_the_leaf_that_is_asked_for_is_read(path):
    with open_checkpoint(path) as saved:
        start = saved.sizes["count"]  # Where the key begins.
        sizes = saved.sizes
    raw = bytearray((path / LEAVES).read_bytes())
    for at in range(start, start + sizes["key"]):
        raw[at] ^= 1
    (path / LEAVES).write_bytes(raw)
    with open_checkpoint(path) as saved:
        assert saved["count"] == 7
        assert saved["layers/0/weight"].shape == (2, 3)
        with pytest.raises(
            CheckpointError, match=r"leaves-00000\.eqx' is damaged at the leaf `key"
        ):
            saved["key"]
        with pytest.raises(CheckpointError, match=r"is damaged at the leaf `key`: its bytes are"):
            saved.verify()


def test_no_byte_of_another_leaf_is_read(path):
    with open_checkpoint(path) as saved:
        sizes = saved.sizes
        with mock.patch.object(saved._reader, "_file", wraps=saved._reader._file) as file:
            saved["layers/0/bias"]
        counts = [len(call.args[0]) for call in file.readinto.call_args_list]
        assert sum(counts) == sizes["layers/0/bias"]
        file.seek.assert_called_once_with(sizes["count"] + sizes["key"])


DTYPES = ["bool", "complex64", "complex128", "<U3", "S2", "<M8[D]", ">f4"]
DTYPES += [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
DTYPES += ["float16", "float32", "float64", "bfloat16", "int4", "uint4", "int2"]
DTYPES += [name for name in dir(ml_dtypes) if name.startswith(("float8", "float6", "float4"))]


def test_every_dtype_comes_back(tmp_path):
    tree = {}
    for name in DTYPES:
        dtype = np.dtype(getattr(ml_dtypes, name, name))
        tree[name] = np.ones((2, 1), np.int8).astype(dtype)
        tree[f"0-d {name}"] = tree[name].reshape(-1)[0]
        tree[f"empty {name}"] = tree[name][:0]
    with enable_x64(True):
        tree["jax"] = {"f8": jax.device_put(np.ones(2)), "bf": jnp.ones(2, jnp.bfloat16)}
    save(tmp_path / "t", tree)
    with open_checkpoint(tmp_path / "t") as saved:
        for name in DTYPES:
            assert type(saved[name]) is np.ndarray
            assert saved[name].dtype == tree[name].dtype
            assert saved[name].tobytes() == tree[name].tobytes()
            assert saved[f"0-d {name}"].shape == ()
            assert saved[f"0-d {name}"].tobytes() == tree[f"0-d {name}"].tobytes()
            assert saved[f"empty {name}"].shape == (0, 1)
            assert saved[f"empty {name}"].dtype == tree[name].dtype
        assert saved["jax/f8"].dtype == np.float64
        assert saved["jax/bf"].dtype == jnp.bfloat16
        assert saved["jax/bf"].tolist() == [1, 1]


def test_what_is_read_is_its_own(saved):
    weight = saved["layers/0/weight"]
    weight[:] = 9
    assert saved["layers/0/weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_come_back(tmp_path, implementation):
    keys = jax.random.split(jax.random.key(0, impl=implementation), (2, 3))
    save(tmp_path / "t", {"keys": keys})
    with open_checkpoint(tmp_path / "t") as saved:
        assert saved["keys"].shape == (2, 3)
        assert str(jax.random.key_impl(saved["keys"])) == implementation
        assert (jax.random.key_data(saved["keys"]) == jax.random.key_data(keys)).all()


@pytest.mark.parametrize("number", [True, 0, -3, 2**63, -(2**80), 1.5, -0.0, 2j, 10**4_000])
def test_python_numbers_come_back(tmp_path, number):
    save(tmp_path / "t", number)
    with open_checkpoint(tmp_path / "t") as saved:
        assert list(saved) == [""]
        assert type(saved[""]) is type(number)
        assert saved[""] == number
        saved.verify()


def test_a_leaf_that_is_not_there_is_told_with_the_nearest(saved, path):
    with pytest.raises(LeafNotFoundError, match="has no leaf") as raised:
        saved["layers/0/wieght"]
    message = (
        f"The checkpoint {str(path)!r} has no leaf 'layers/0/wieght' among its 5: the nearest are "
        "`layers/0/weight`, `layers/0/bias`."
    )
    assert str(raised.value) == message
    assert isinstance(raised.value, KeyError)
    assert isinstance(raised.value, CheckpointError)
    with pytest.raises(KeyError, match=r"has no leaf 'xyz' among its 5: see `list\(\.\.\.\)`"):
        saved["xyz"]
    with pytest.raises(LeafNotFoundError, match="has no leaf 3 among its 5"):
        saved[3]


def test_what_is_closed_tells_so(path):
    saved = open_checkpoint(path)
    with saved:
        assert saved["count"] == 7
    saved.close()
    for read in (lambda: saved["count"], lambda: saved["large"], saved.verify, lambda: dict(saved)):
        with pytest.raises(CheckpointError, match=r"is closed, and this reads .* `with` block"):
            read()
    with pytest.raises(LeafNotFoundError, match="has no leaf 'x'"):
        saved["x"]
    assert "count" in saved
    assert len(saved.specs) == 5


def test_digests_tell_leaves_apart(path, tmp_path):
    save(tmp_path / "other", TREE | {"count": 8, "large": -(10**40) - 1})
    with open_checkpoint(path) as saved, open_checkpoint(tmp_path / "other") as other:
        one, two = saved.digests, other.digests
    assert [name for name in PATHS if one[name] != two[name]] == ["count", "large"]
    assert one["large"] == hex(-(10**40))
    raw = (path / LEAVES).read_bytes()
    assert one["count"] == f"xxh3_128:{xxhash.xxh3_128_hexdigest(raw[:136])}"


def test_every_byte_is_verified(path):
    with open_checkpoint(path) as saved:
        saved.verify()
        sizes = saved.sizes
    raw = (path / LEAVES).read_bytes()
    ends = np.cumsum([sizes[name] for name in PATHS])
    for at in range(0, len(raw), 7):
        damaged = bytearray(raw)
        damaged[at] ^= 4
        (path / LEAVES).write_bytes(damaged)
        leaf = PATHS[int(np.searchsorted(ends, at, side="right"))]
        with (
            open_checkpoint(path) as saved,
            pytest.raises(CheckpointError, match=f"is damaged at the leaf `{leaf}`"),
        ):
            saved.verify()


def test_a_file_of_another_length_is_told(path):
    raw = (path / LEAVES).read_bytes()
    (path / LEAVES).write_bytes(raw[:-1])
    with open_checkpoint(path) as saved:
        assert saved["count"] == 7
        with pytest.raises(
            CheckpointError, match=r"`layers/0/weight`: the file ends in the middle"
        ):
            saved.verify()
    (path / LEAVES).write_bytes(raw + b"1")
    with pytest.raises(CheckpointError, match=r"damaged after the leaf `layers/0/weight`: it has"):
        open_checkpoint(path)


def test_what_is_no_checkpoint_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at `path` \(='.*missing'\)"):
        open_checkpoint(tmp_path / "missing")
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        open_checkpoint(tmp_path)


def test_a_dtype_that_is_not_known_here_is_told(path):
    with open_checkpoint(path) as saved:
        message = r"`count` of .* cannot be read as python int: no float3\. It needs the packages"
        with (
            mock.patch("treadle.checkpoint._open.decoded", side_effect=TypeError("no float3")),
            pytest.raises(CheckpointError, match=message),
        ):
            saved["count"]
        assert saved["count"] == 7


def test_an_empty_checkpoint_is_open_too(tmp_path):
    save(tmp_path / "t", {})
    with open_checkpoint(tmp_path / "t") as saved:
        assert not saved
        assert list(saved) == []
        saved.verify()
        with pytest.raises(LeafNotFoundError, match="has no leaf 'x' among its 0"):
            saved["x"]


def test_the_class_has_a_name():
    assert treadle.checkpoint.Checkpoint is Checkpoint
    assert treadle.checkpoint.open is open_checkpoint
