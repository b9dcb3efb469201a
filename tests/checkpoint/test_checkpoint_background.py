"""Saves that go on beside the training: of what there was, one at a time, never silently lost."""

import functools
import logging
import os
import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tests.helpers import assert_same, listed, run_script

from treadle import Checkpointer, CheckpointError
from treadle.checkpoint import _background, _checkpointer, _prepared, load
from treadle.checkpoint._prepared import prepare


class Writer:
    """The writer, which waits until it is told to go on."""

    def __init__(self, monkeypatch):
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.events = []
        write = _checkpointer.write_checkpoint

        def waiting(path, *args):
            self.events.append(f"begins {path.name[-1]}")
            self.begun.set()
            assert self.go_on.wait(60)
            write(path, *args)
            self.events.append(f"ends {path.name[-1]}")

        monkeypatch.setattr(_checkpointer, "write_checkpoint", waiting)

    def soon(self):
        """Lets it go on in a moment, from another thread."""
        threading.Timer(0.02, self.go_on.set).start()


@pytest.fixture
def writer(monkeypatch):
    made = Writer(monkeypatch)
    yield made
    made.go_on.set()


def join_writer():
    """Returns when a save has ended, whichever way."""
    for thread in threading.enumerate():
        if thread.name == "treadle-checkpoint":
            thread.join(60)


def device_tree():
    """JAX arrays of each kind, on one device and on several."""
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    data = np.arange(8.0, dtype=np.float32)
    put = lambda *axes: jax.device_put(data, NamedSharding(mesh, PartitionSpec(*axes)))
    return {
        "plain": jnp.arange(1 << 12, dtype=jnp.float32),
        "bfloat16": jnp.arange(8, dtype=jnp.bfloat16),
        "float8": jnp.ones(8, jnp.float8_e4m3fn),
        "scalar": jnp.float32(3),
        "key": jax.random.key(3),
        "split": put("data"),
        "copied": put(),
        "elsewhere": jax.device_put(data, jax.devices()[-1]),
    }


@functools.partial(jax.jit, donate_argnums=0)
def overwritten(leaf):
    """Other values in the same memory, where that can be had."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jax.random.key_data(leaf) + jnp.uint32(1))
    return (leaf + jnp.ones((), leaf.dtype)).astype(leaf.dtype)


def copied(tree):
    return {
        name: jax.random.clone(leaf) if name == "key" else np.array(leaf)
        for name, leaf in tree.items()
    }


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_what_is_saved_is_what_was_there_though_it_is_donated(
    tmp_path, writer, monkeypatch, backend
):
    monkeypatch.setattr(_prepared.jax, "default_backend", lambda: backend)
    tree = device_tree()
    before = copied(tree)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, tree)
    # Twice: memory that was let go is likely to be taken next.
    for _ in range(2):
        tree = {name: overwritten(leaf) for name, leaf in tree.items()}
        jax.block_until_ready(tree)
    writer.go_on.set()
    assert_same(checkpointer.restore(before), before)
    assert np.asarray(tree["plain"])[0] == 2


def test_what_is_saved_is_what_was_there_though_it_is_written_to(tmp_path, writer):
    tree = {
        "plain": np.arange(6.0),
        "view": np.arange(12.0).reshape(3, 4)[:, ::2],
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "carrier": np.arange(4).astype(ml_dtypes.int4),
        "empty": np.zeros((0, 2)),
        "text": np.array(["ab", "c"]),
    }
    tree["list"] = [1, 2.5]
    metadata, metrics = {"deep": {"x": [1]}}, {"acc": np.ones(())}
    before = {name: leaf.copy(order="K") for name, leaf in tree.items() if name != "list"}
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, tree, metadata=metadata, metrics=metrics)
        for name in before:
            tree[name][...] = "x" if name == "text" else 1
        tree["list"][0] = 7
        metadata["deep"]["x"].append(2)
        metrics["acc"][...] = 2
        writer.go_on.set()
        read = checkpointer.restore(tree)
        assert checkpointer.metadata() == {"deep": {"x": [1]}}
    assert read.pop("list") == [1, 2.5]
    assert_same(read, before)
    # And as it lay in memory.
    assert read["fortran"].flags.f_contiguous


def test_nothing_is_copied_that_is_on_the_host(tmp_path):
    x = jnp.arange(1 << 12, dtype=jnp.float32)
    prepared = prepare({"x": x}, None, None)
    prepared.hold()
    (entry,) = prepared.entries
    held = entry.take()
    assert held.ctypes.data == x.unsafe_buffer_pointer()
    # That is why a step takes other memory.
    address, y = x.unsafe_buffer_pointer(), overwritten(x)
    assert y.unsafe_buffer_pointer() != address
    assert held[0] == 0
    # It is let go once it is written.
    assert entry._stored is entry._leaf is None


def test_leaves_are_let_go_as_they_are_written(tmp_path, monkeypatch):
    held = []
    take = _prepared.Entry.take

    def taking(self):
        held.append(sum(entry._stored is not None for entry in prepared.entries))
        return take(self)

    monkeypatch.setattr(_prepared.Entry, "take", taking)
    prepared = prepare([jnp.arange(4.0) + at for at in range(5)], None, None)
    monkeypatch.setattr(_checkpointer, "prepare", lambda *args: prepared)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, [])
    assert held == [5, 4, 3, 2, 1]


MEMORY = """
import pathlib, resource, sys
import jax, jax.numpy as jnp, numpy as np
from treadle.checkpoint import Checkpointer

MIB = 1 << 20
leaves = [jnp.full((8 * MIB // 4,), at, jnp.float32) for at in range(8)]
leaves += [np.full(8 * MIB // 4, at, np.float32) for at in range(2)]
strided = np.ones((8 * MIB // 4, 2), np.float32)
tree = {"leaves": jax.block_until_ready(leaves), "strided": [strided[:, 0], strided[:, 1]]}
checkpointer = Checkpointer(sys.argv[1], asynchronous=False)
checkpointer.save(1, {"x": jnp.ones(4)})

def resident():
    text = pathlib.Path("/proc/self/status").read_text()
    return {line.split(":")[0]: int(line.split()[1]) / 1024
            for line in text.splitlines() if line.startswith(("VmHWM", "VmRSS"))}

pathlib.Path("/proc/self/clear_refs").write_text("5")
before = resident()["VmRSS"]
checkpointer.save(2, tree)
print(resident()["VmHWM"] - before)
"""


def test_a_synchronous_save_holds_two_leaves_at_most(tmp_path):
    done = run_script(MEMORY, tmp_path)
    assert done.returncode == 0, done.stderr
    # A leaf has 8 MiB, all of them together 96.
    assert float(done.stdout) < 24


def test_at_most_one_save_is_in_flight(tmp_path, writer):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, 1)
        assert writer.begun.wait(60)
        assert writer.events == ["begins 1"]
        writer.soon()
        checkpointer.save(2, 2)
        checkpointer.save(3, 3)
    assert writer.events == ["begins 1", "ends 1", "begins 2", "ends 2", "begins 3", "ends 3"]


def test_what_is_under_way_is_not_there_yet_and_removes_nothing(tmp_path, writer):
    checkpointer = Checkpointer(tmp_path, keep_last=1)
    writer.go_on.set()
    checkpointer.save(1, 1)
    assert checkpointer.steps() == [1]
    writer.go_on.clear()
    writer.begun.clear()
    checkpointer.save(2, 2)
    assert writer.begun.wait(60)
    assert listed(tmp_path) == ["step_00000001"]
    writer.soon()
    assert checkpointer.latest_step() == 2
    assert listed(tmp_path) == ["step_00000002"]


def test_what_is_written_over_is_there_until_the_other_is(tmp_path, writer):
    checkpointer = Checkpointer(tmp_path)
    writer.go_on.set()
    checkpointer.save(1, 1)
    checkpointer.wait()
    writer.go_on.clear()
    writer.begun.clear()
    checkpointer.save(1, 5, overwrite=True)
    assert writer.begun.wait(60)
    assert load(tmp_path / "step_00000001", 0) == 1
    writer.go_on.set()
    assert checkpointer.restore(0) == 5
    with pytest.raises(CheckpointError, match=r"checkpoint of `step` \(=1\) .* already"):
        checkpointer.save(1, 6)
    checkpointer.close()


CALLS = {
    "save": lambda checkpointer: checkpointer.save(3, 3),
    "wait": lambda checkpointer: checkpointer.wait(),
    "steps": lambda checkpointer: checkpointer.steps(),
    "latest_step": lambda checkpointer: checkpointer.latest_step(),
    "restore": lambda checkpointer: checkpointer.restore(0),
    "metadata": lambda checkpointer: checkpointer.metadata(),
    "close": lambda checkpointer: checkpointer.close(),
}


@pytest.mark.parametrize(
    "error", [CheckpointError("no disk"), MemoryError("no room"), SystemExit(3)]
)
@pytest.mark.parametrize("call", CALLS)
def test_a_failure_is_raised_by_the_next_call_with_its_cause_once(
    tmp_path, monkeypatch, caplog, call, error
):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, 1)
    checkpointer.wait()

    def fail(*args):
        raise error

    monkeypatch.setattr(_checkpointer, "write_checkpoint", fail)
    checkpointer.save(2, 2)
    join_writer()
    monkeypatch.undo()
    with pytest.raises(
        CheckpointError, match=r"The save of step 2 to .* failed, in the back"
    ) as told:
        CALLS[call](checkpointer)
    assert told.value.__cause__ is error
    assert str(error) in str(told.value)
    # For those who never call again, it is in the log.
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "The save of step 2" in caplog.text
    # Once, and what was asked for then was not done.
    assert checkpointer.steps() == [1]
    checkpointer.save(3, 3)
    assert checkpointer.steps() == [1, 3]
    checkpointer.close()
    assert not (tmp_path / ".lock").exists()


def test_the_error_of_a_training_is_not_hidden_by_that_of_a_save(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(5, "Input/output error")

    def train():
        with Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(1, 1)
            raise ZeroDivisionError("by zero")

    monkeypatch.setattr(_checkpointer, "write_checkpoint", fail)
    with pytest.raises(ZeroDivisionError, match="by zero") as raised:
        train()
    (note,) = raised.value.__notes__
    assert note.startswith("Besides: The save of step 1 to ")


SCRIPT = """
import sys, threading
import jax.numpy as jnp
from treadle.checkpoint import Checkpointer, _checkpointer

write = _checkpointer.write_checkpoint

def late(*args):
    threading.main_thread().join()  # The script has come to its end.
    write(*args)

_checkpointer.write_checkpoint = late
checkpointer = Checkpointer(sys.argv[1])
checkpointer.save(1, {"x": jnp.arange(4.0)})
if sys.argv[2] == "error":
    raise RuntimeError("the script failed")
if sys.argv[2] == "exit":
    sys.exit(3)
"""


@pytest.mark.parametrize(("end", "status"), [("plain", 0), ("error", 1), ("exit", 3)])
def test_a_script_that_ends_completes_its_save(tmp_path, end, status):
    done = run_script(SCRIPT, tmp_path, end)
    assert done.returncode == status, done.stderr
    assert load(tmp_path / "step_00000001", {"x": jnp.zeros(4)})["x"].tolist() == [0, 1, 2, 3]
    assert os.listdir(tmp_path) == ["step_00000001"]


@pytest.mark.parametrize("where", ["start", "hold"])
def test_a_save_that_cannot_begin_leaves_all_as_it_was(tmp_path, monkeypatch, where):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, 1)
    checkpointer.wait()

    def fail(*args):
        raise KeyboardInterrupt("Ctrl-C")

    with pytest.MonkeyPatch.context() as patch:
        if where == "start":
            patch.setattr(_background.threading.Thread, "start", fail)
        else:
            patch.setattr(_prepared.Prepared, "hold", fail)
        with pytest.raises(KeyboardInterrupt, match="Ctrl-C"):
            checkpointer.save(2, 2)
    assert checkpointer.steps() == [1]
    checkpointer.save(2, 2)
    assert checkpointer.steps() == [1, 2]
    assert Checkpointer(tmp_path).restore(0) == 2


def test_without_a_thread_everything_is_done_on_return(tmp_path, monkeypatch):
    monkeypatch.setattr(_background.threading.Thread, "start", None)
    checkpointer = Checkpointer(tmp_path, asynchronous=False, keep_last=1)
    for step in (1, 2):
        checkpointer.save(step, step)
        assert listed(tmp_path) == [f"step_0000000{step}"]
