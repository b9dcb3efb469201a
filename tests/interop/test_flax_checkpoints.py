"""Checkpoints of Flax and Orbax, read into models."""

import functools
import warnings

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from flax.training import checkpoints
from flax.training.train_state import TrainState as FlaxState
from tests.helpers import assert_same

from treadle import (
    ArgumentTypeError,
    CheckpointError,
    CheckpointNotFoundError,
    MissingExtraError,
    TreadleError,
)
from treadle._errors import DamagedCheckpointError
from treadle.interop.flax import from_linen, read_checkpoint, to_linen


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(4, dtype=jnp.float32, param_dtype=jnp.bfloat16)(x)
        return nn.BatchNorm(use_running_average=not train)(x)


X = np.ones((2, 3), np.float32)
init = functools.partial(Net().init, x=X)


@functools.cache
def variables():
    """Distinct numbers in every leaf."""
    leaves, treedef = jax.tree.flatten(init(jax.random.key(0)))
    filled = [
        jnp.asarray((np.arange(leaf.size) + 0.5 * at).reshape(leaf.shape), leaf.dtype)
        for at, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, filled)


@functools.cache
def wanted():
    return jax.eval_shape(init, jax.random.key(0))


class StateWithStats(FlaxState):
    batch_stats: dict


def state():
    return StateWithStats.create(
        apply_fn=Net().apply,
        params=variables()["params"],
        tx=optax.adamw(1e-3),
        batch_stats=variables()["batch_stats"],
    )


def save_msgpack(folder):
    path = folder / "variables.msgpack"
    path.write_bytes(serialization.to_bytes(variables()))
    return path


def save_state(folder):
    path = folder / "state.msgpack"
    path.write_bytes(serialization.to_bytes(state()))
    return path


def save_old(folder, use_orbax=False):
    was = flax.config.flax_use_orbax_checkpointing
    flax.config.update("flax_use_orbax_checkpointing", use_orbax)
    try:
        with warnings.catch_warnings():
            # That Orbax is to be used instead.
            warnings.simplefilter("ignore", DeprecationWarning)
            for step in (2, 10):
                old = jax.tree.map(jnp.zeros_like, state()) if step == 2 else state()
                checkpoints.save_checkpoint(folder, old, step=step, keep=2)
    finally:
        flax.config.update("flax_use_orbax_checkpointing", was)
    return folder


def save_pytree(folder):
    ocp.PyTreeCheckpointer().save(folder / "tree", state())
    return folder / "tree"


def save_standard(folder):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "standard", variables())
    return folder / "standard"


def save_managed(folder):
    with ocp.CheckpointManager(folder / "managed") as manager:
        for step in (2, 10):
            manager.save(step, args=ocp.args.StandardSave(variables()))
    return folder / "managed"


WAYS = [
    save_msgpack,
    save_state,
    save_old,
    functools.partial(save_old, use_orbax=True),
    save_pytree,
    save_standard,
    save_managed,
]


@pytest.mark.parametrize("save", WAYS, ids=lambda way: getattr(way, "__name__", "old_by_orbax"))
def test_what_was_saved_comes_back_bit_for_bit(save, tmp_path):
    read = read_checkpoint(save(tmp_path), like=wanted())
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(read))
    assert_same(to_linen(*from_linen(Net(), read)), variables())


def test_a_step_of_several(tmp_path):
    folder = save_old(tmp_path)
    # What was being written when its process ended.
    for rest in ("checkpoint_tmp", "checkpoint_20.orbax-checkpoint-tmp-1"):
        (folder / rest).mkdir()
    everything = read_checkpoint(folder)
    assert set(everything) == {"step", "params", "opt_state", "batch_stats"}
    first = read_checkpoint(folder, step=2)
    assert not np.any(first["params"]["Dense_0"]["bias"])
    assert np.any(everything["params"]["Dense_0"]["bias"])
    assert_same(read_checkpoint(folder / "checkpoint_2"), first)
    with pytest.raises(CheckpointNotFoundError, match="has no step 3: there are 2, 10"):
        read_checkpoint(folder, step=3)
    with pytest.raises(CheckpointNotFoundError, match="has no step 3: there are no steps"):
        read_checkpoint(folder / "checkpoint_2", step=3)


def test_several_items_come_by_name(tmp_path):
    with ocp.CheckpointManager(tmp_path / "managed") as manager:
        items = {
            "model": ocp.args.StandardSave(variables()),
            "more": ocp.args.StandardSave({"a": np.ones(2)}),
            "config": ocp.args.JsonSave({"b": 1}),
        }
        manager.save(1, args=ocp.args.Composite(**items))
    assert set(read_checkpoint(tmp_path / "managed")) == {"model", "more"}
    read = read_checkpoint(tmp_path / "managed", like={"model": wanted()})
    assert_same(jax.tree.map(jnp.asarray, read["model"]), variables())


def test_what_does_not_fit_is_told_at_once(tmp_path):
    path = save_state(tmp_path)
    like = {**wanted(), "params": {**wanted()["params"], "Dense_1": wanted()["params"]["Dense_0"]}}
    like["params"].pop("Dense_0")
    with pytest.raises(CheckpointError, match=r"(?s)missing .*Dense_1.*there is .*Dense_0.* unexp"):
        read_checkpoint(path, like=like)
    with pytest.raises(CheckpointError, match=r"At its top it has .*'params', 'opt_state") as told:
        read_checkpoint(path, like={"model": wanted()})
    assert "missing" in str(told.value)
    wide = jax.eval_shape(functools.partial(Net().init, x=np.ones((2, 5))), jax.random.key(0))
    with pytest.raises(CheckpointError, match=r"kernel' is bfloat16\[3,4\], and bfloat16\[5,4\]"):
        read_checkpoint(path, like=wide)
    doubled = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float32), wanted())
    with pytest.raises(CheckpointError, match=r"bias' is bfloat16, and float32 in `like`.*cast"):
        read_checkpoint(path, like=doubled)
    with pytest.raises(ArgumentTypeError, match="`like` is a list: give a dictionary of collecti"):
        read_checkpoint(path, like=[])


def test_what_is_not_there_or_no_checkpoint_is_told(tmp_path, monkeypatch):
    with pytest.raises(ArgumentTypeError, match=r"`path` \(=None\) must be the path of a file, no"):
        read_checkpoint(None)
    with pytest.raises(ArgumentTypeError, match=r"`step` \(='3'\) must be"):
        read_checkpoint(tmp_path, step="3")
    with pytest.raises(CheckpointNotFoundError, match="There is nothing at `path` "):
        read_checkpoint(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointNotFoundError, match="no checkpoint of Flax or Orbax in it"):
        read_checkpoint(tmp_path / "empty")
    (tmp_path / "number").write_bytes(serialization.msgpack_serialize(3))
    with pytest.raises(DamagedCheckpointError, match="holds a int, no dictionary of arrays"):
        read_checkpoint(tmp_path / "number")
    (tmp_path / "keys").write_bytes(msgpack.packb({"a": [{1: 2}]}))
    with pytest.raises(DamagedCheckpointError, match=r"the key 1, which|int is not allowed"):
        read_checkpoint(tmp_path / "keys")
    odd = msgpack.packb(([1], "f4,(", b"0000"))
    (tmp_path / "dtype").write_bytes(msgpack.packb({"a": msgpack.ExtType(1, odd)}))
    with pytest.raises(DamagedCheckpointError, match="is not what"):
        read_checkpoint(tmp_path / "dtype")
    (tmp_path / "apart").write_bytes(
        serialization.msgpack_serialize({"a": {"b": "//GDAPlaceholder:a/b"}})
    )
    with pytest.raises(CheckpointError, match="has 'a/b' in a folder beside it"):
        read_checkpoint(tmp_path / "apart")
    path = save_msgpack(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "flax.serialization", None)
    with pytest.raises(MissingExtraError, match="flax, which is not installed"):
        read_checkpoint(path)


def test_a_truncated_or_changed_file_is_told(tmp_path):
    data = save_msgpack(tmp_path).read_bytes()
    path = tmp_path / "damaged"
    for end in range(0, len(data), 7):
        path.write_bytes(data[:end])
        with pytest.raises(DamagedCheckpointError, match=r"is not what `flax\.serialization\.to_"):
            read_checkpoint(path)
    rng = np.random.default_rng(0)
    outcomes = {True: 0, False: 0}
    for at in range(0, len(data), 3):
        changed = bytearray(data)
        changed[at] ^= rng.integers(1, 256)
        path.write_bytes(bytes(changed))
        try:
            read_checkpoint(path, like=wanted())
            outcomes[True] += 1
        except TreadleError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 10  # A number's bits may be any; names and sizes may not.


def test_a_damaged_orbax_folder_is_told(tmp_path):
    path = save_standard(tmp_path)
    (path / "_METADATA").write_text("{")
    with pytest.raises(DamagedCheckpointError, match="looks like a checkpoint of Orbax, and canno"):
        read_checkpoint(path)
