"""Laws of checkpoints: the same bits, no damage unseen, and never less than there was."""

import builtins
import errno
import io
import os
import struct

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers import listed

from treadle import Checkpointer, CheckpointError
from treadle._compat import enable_x64
from treadle.checkpoint import _claim, _flock, _folders, load, save

NATIVE = ["bool", "float16", "float32", "float64", "complex64", "complex128"]
NATIVE += [f"{sign}int{size}" for sign in ("", "u") for size in (8, 16, 32, 64)]
CARRIED = [
    name
    for name in dir(ml_dtypes)
    if name.startswith(("bfloat", "float", "int", "uint")) and name != "iinfo"
]
KEYS = ["threefry2x32", "rbg", "unsafe_rbg"]

# A leaf is described first and made later: strategies must not run JAX.
leaves = st.one_of(
    st.tuples(
        st.sampled_from(["jax", "numpy", "scalar"]),
        st.sampled_from(NATIVE + CARRIED),
        st.sampled_from([(), (0,), (1,), (3,), (2, 3), (2, 0, 2)]),
        st.integers(0, 2**32),
    ),
    st.tuples(
        st.just("key"), st.sampled_from(KEYS), st.sampled_from([(), (2,)]), st.integers(0, 9)
    ),
    st.tuples(st.just("raw"), st.integers(0, 9)),
    st.tuples(
        st.just("python"),
        st.one_of(
            st.booleans(),
            st.integers(),
            st.integers(-(2**70), 2**70),
            st.floats(),
            st.complex_numbers(),
        ),
    ),
    st.tuples(st.just("static"), st.sampled_from([None, "text", jax.nn.relu, Ellipsis])),
)
trees = st.recursive(
    leaves.map(lambda leaf: {"leaf": leaf}),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(lambda d: {"dict": d}),
    ),
    max_leaves=6,
)


def numbers(name, shape, seed):
    """Any bits that a dtype can have: NaNs of every payload, negative zeros, all of them."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    if name == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if name.lstrip("u") in ("int1", "int2", "int4"):  # The other bits of the byte are nobody's.
        low, high = ml_dtypes.iinfo(dtype).min, ml_dtypes.iinfo(dtype).max
        return rng.integers(int(low), int(high) + 1, shape).astype(dtype)
    if name.startswith(("float4_", "float6_")):
        return rng.integers(0, 2 ** int(name[5]), shape, np.uint8).view(dtype)
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def leaf_of(kind, *rest):
    if kind == "key":
        implementation, shape, seed = rest
        key = jax.random.key(seed, impl=implementation)
        return jax.random.split(key, shape) if shape else key
    if kind == "raw":
        return jax.random.PRNGKey(rest[0])
    if kind in ("python", "static"):
        return rest[0]
    array = numbers(*rest)
    if kind == "numpy":
        return array
    if kind == "scalar":
        return array.reshape(-1)[0] if array.size else 0
    if not hasattr(jnp, rest[0]) or rest[0].startswith("float6_"):  # Not of every JAX and device.
        return array
    with enable_x64(True):
        return jax.device_put(array)


def tree_of(description):
    if isinstance(description, list):
        return [tree_of(inner) for inner in description]
    if "dict" in description:
        return {name: tree_of(inner) for name, inner in description["dict"].items()}
    return leaf_of(*description["leaf"])


def bits(leaf):
    """Everything there is to know about a leaf."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return "key", str(jax.random.key_impl(leaf)), bits(jax.random.key_data(leaf))
    if isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
        kind = "jax" if isinstance(leaf, jax.Array) else type(leaf)
        host = np.asarray(leaf)
        return kind, host.dtype, host.shape, host.tobytes()
    if isinstance(leaf, (float, complex)):
        return type(leaf), struct.pack("dd", complex(leaf).real, complex(leaf).imag)
    return type(leaf), leaf


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert [bits(leaf) for leaf in jax.tree.leaves(a)] == [
        bits(leaf) for leaf in jax.tree.leaves(b)
    ]


def blank(leaf):
    """A leaf of the same spec and other values."""
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    if isinstance(leaf, np.ndarray):
        return np.zeros_like(leaf)
    return type(leaf)(1) if isinstance(leaf, (bool, int, float, complex, np.generic)) else leaf


EVERY_DTYPE = [
    {"leaf": (kind, name, (2, 3), 5)}
    for kind in ("jax", "numpy", "scalar")
    for name in NATIVE + CARRIED
]


@given(trees)
@example(EVERY_DTYPE)
def test_what_is_loaded_is_what_was_saved(tmp_path_factory, description):
    tree = tree_of(description)
    path = tmp_path_factory.mktemp("law") / "tree"
    save(path, tree)
    like = jax.tree.map(blank, tree)
    loaded = load(path, like)
    assert_same_bits(loaded, tree)
    for leaf in jax.tree.leaves(loaded):
        assert not (isinstance(leaf, jax.Array) and leaf.committed)
    save(path.with_name("again"), loaded)
    for name in os.listdir(path):
        assert (path / name).read_bytes() == (path.with_name("again") / name).read_bytes()


def test_a_flipped_bit_anywhere_is_told_with_its_leaf(tmp_path):
    tree = {"a": np.arange(2.0), "b": [np.ones(3, ml_dtypes.bfloat16), 2**80]}
    save(tmp_path / "t", tree, metadata={"epoch": 3})
    starts = {"a": 0, "b/0": 128 + 16}
    for name in ("leaves-00000.eqx", "manifest.json"):
        file = tmp_path / "t" / name
        raw = file.read_bytes()
        for at in range(len(raw)):
            damaged = bytearray(raw)
            damaged[at] ^= 1 << at % 8
            file.write_bytes(damaged)
            where = "manifest.json"
            if name != "manifest.json":
                where = f"leaf `{[path for path, start in starts.items() if start <= at][-1]}`"
            with pytest.raises(CheckpointError, match=f"{where}.*"):
                load(tmp_path / "t", tree)
        file.write_bytes(raw)
    assert_same_bits(load(tmp_path / "t", tree), tree)


@given(st.integers(0, 10_000))
def test_a_file_cut_off_or_grown_is_told(tmp_path_factory, cut):
    tree = {"a": np.arange(5.0), "b": np.arange(3)}
    path = tmp_path_factory.mktemp("law") / "t"
    save(path, tree)
    for name in ("leaves-00000.eqx", "manifest.json"):
        raw = (path / name).read_bytes()
        for wrong in (raw[: cut % len(raw)], raw + b"\0"):
            (path / name).write_bytes(wrong)
            with pytest.raises(CheckpointError, match="is damaged"):
                load(path, tree)
        os.remove(path / name)
        with pytest.raises(CheckpointError, match=r"is gone|has no manifest\.json"):
            load(path, tree)
        (path / name).write_bytes(raw)


class Killed(BaseException):
    """The process is no more."""


class Faults:
    """Makes one call to the system fail, or that one and all after it.

    Args:
        at: Which call, from 0.
        dead: Whether the process dies there; otherwise the disk is full, once.
    """

    effects = ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir", "write")

    def __init__(self, patch, at, dead):
        self.at, self.dead, self.count = at, dead, 0
        self.write = os.write
        for name in self.effects:
            patch.setattr(os, name, self.failing(getattr(os, name)))
        patch.setattr(os, "write", self.write_half)
        opened, opened_raw = builtins.open, os.open

        def open_failing(path, mode="r", *args, **kwargs):
            if "w" not in mode:
                return opened(path, mode, *args, **kwargs)
            self.call()
            return FailingFile(path, self)

        def open_failing_raw(path, flags, *args, **kwargs):
            if flags & os.O_CREAT:
                self.call()
            return opened_raw(path, flags, *args, **kwargs)

        patch.setattr(builtins, "open", open_failing)
        patch.setattr(os, "open", open_failing_raw)

    def call(self):
        self.count += 1
        if self.count <= self.at:
            return
        if self.dead:
            raise Killed("killed")
        if self.count == self.at + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def failing(self, function):
        def call(*args, **kwargs):
            self.call()
            return function(*args, **kwargs)

        return call

    def write_half(self, descriptor, data):
        """Half of what is to be written may be all that is; a short write is no error."""
        count = self.write(descriptor, data[: max(1, len(data) // 2)])
        self.call()
        return count


class FailingFile(io.BufferedWriter):
    """A file of which half of a write may be all that there is."""

    def __init__(self, path, faults):
        super().__init__(io.FileIO(path, "w"))
        self.faults = faults

    def write(self, data):
        super().write(data[: len(data) // 2])
        self.faults.call()
        return super().write(data[len(data) // 2 :]) + len(data) // 2


TREES = [{"a": np.full(3, fill), "b": [fill, 2**80 + fill]} for fill in range(4)]


def run_with_fault(at, dead, act):
    """Runs `act`; returns whether it went through, and whether the fault was reached."""
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, at, dead)
        try:
            act()
            through = True
        except (Killed, CheckpointError) as error:
            through, told = False, str(error)
    if not through:
        assert told == "killed" if dead else "No space left on device" in told
    if dead:
        # What a process is at work on is forgotten with it, and its locks end.
        _folders._in_use.clear()
        _claim._claims.clear()
        _flock._forget()
    return through, faults.count > at


@pytest.mark.parametrize("dead", [False, True], ids=["disk_full", "killed"])
@pytest.mark.parametrize("way", ["beside", "over", "over_by_renames"])
def test_a_save_that_fails_anywhere_leaves_what_was_there(tmp_path, monkeypatch, way, dead):
    overwrite = way != "beside"
    if way == "over_by_renames":
        monkeypatch.setattr(_folders, "exchange", lambda new, path: False)
    for at in range(100):
        folder = tmp_path / str(at)
        save(folder / "old", TREES[0])
        target = folder / ("old" if overwrite else "new")
        through, reached = run_with_fault(
            at, dead, lambda target=target: save(target, TREES[1], overwrite=overwrite)
        )
        if not overwrite:
            assert_same_bits(load(folder / "old", TREES[3]), TREES[0])
        # The new one is there, complete, or the old one is.
        if through or (not overwrite and target.exists()):
            assert_same_bits(load(target, TREES[3]), TREES[1])
        elif overwrite:
            (read,) = {int(load(target, TREES[3])["b"][0])}
            assert_same_bits(load(target, TREES[3]), TREES[read])
            assert read in (0, 1)
        if not dead and not through:
            assert {name for name in os.listdir(folder) if name.startswith(".")} == set()
        # And the next save goes through, and clears up.
        save(target, TREES[2], overwrite=True)
        assert_same_bits(load(target, TREES[3]), TREES[2])
        assert listed(folder) == sorted({"old", target.name})
        if not reached:
            break
    assert 10 < at < 99


@pytest.mark.parametrize("dead", [False, True], ids=["disk_full", "killed"])
def test_a_checkpointer_that_fails_anywhere_keeps_the_newest(tmp_path, dead):
    for at in range(100):
        directory = tmp_path / str(at)
        checkpointer = Checkpointer(directory, keep_last=2, asynchronous=False)
        checkpointer.save(1, TREES[1])
        checkpointer.save(2, TREES[2])
        through, reached = run_with_fault(
            at, dead, lambda checkpointer=checkpointer: checkpointer.save(3, TREES[3])
        )
        steps = checkpointer.steps()
        again = Checkpointer(directory, keep_last=2, asynchronous=False)
        assert again.steps() == steps
        assert steps in ([1, 2], [1, 2, 3], [2, 3])
        assert_same_bits(again.restore(TREES[0]), TREES[steps[-1]])
        for step in steps:
            assert_same_bits(again.restore(TREES[0], step=step), TREES[step])
        assert listed(directory) == [f"step_{step:08d}" for step in steps]
        again.save(4, TREES[0])
        assert again.steps() == [steps[-1], 4]
        if not reached:
            break
    assert 15 < at < 99
