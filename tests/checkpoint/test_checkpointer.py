"""`treadle.Checkpointer`: a folder a step, the right ones kept."""

import errno
import math
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import listed

from treadle import Checkpointer, CheckpointError, CheckpointNotFoundError, TreadleError
from treadle.checkpoint import _checkpointer as implementation
from treadle.checkpoint import _load, load


def test_steps_are_folders_in_order(tmp_path):
    checkpointer = Checkpointer(tmp_path / "a" / "c", keep_last=None)
    assert checkpointer.steps() == []
    assert checkpointer.latest_step() is None
    assert not (tmp_path / "a").exists()
    for step in (1200, 0, 123_456_789, 99_999_999):
        checkpointer.save(step, {"at": step})
    checkpointer.wait()
    assert listed(tmp_path / "a" / "c") == [
        "step_00000000",
        "step_00001200",
        "step_123456789",
        "step_99999999",
    ]
    assert checkpointer.steps() == [0, 1200, 99_999_999, 123_456_789]
    assert checkpointer.latest_step() == 123_456_789
    assert repr(checkpointer).endswith("steps=[0, 1200, 99999999, 123456789])")
    assert load(tmp_path / "a" / "c" / "step_00001200", {"at": 0}) == {"at": 1200}
    assert checkpointer.wait() is None


def test_only_complete_checkpoints_are_listed(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(7, 7)
    for name in ("step_00000008", "step_9", "step_000000011", "other", ".step_00000012"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_00000013").write_text("")
    for name in ("step_9", "step_000000011", ".step_00000012"):
        (tmp_path / name / "manifest.json").write_text("{}")
    assert Checkpointer(tmp_path).steps() == [7]


def test_restore_takes_the_newest_or_the_one_asked_for(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(np.int64(3), {"w": jnp.ones(2)}, metadata={"epoch": 1})
    checkpointer.save(jnp.asarray(5), {"w": jnp.zeros(2)})
    assert checkpointer.restore({"w": jnp.ones(2)})["w"].tolist() == [0, 0]
    assert checkpointer.restore({"w": jnp.ones(2)}, step=3)["w"].tolist() == [1, 1]
    assert checkpointer.metadata() == {}
    assert checkpointer.metadata(3) == checkpointer.metadata(step=3) == {"epoch": 1}


def test_what_is_not_there_is_told(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for call in (lambda: checkpointer.restore(0), checkpointer.metadata):
        with pytest.raises(CheckpointNotFoundError, match=r"no checkpoint in `directory` \(='/.*'"):
            call()
    checkpointer.save(3, 0)
    checkpointer.save(5, 0)
    with pytest.raises(FileNotFoundError, match=r"of `step` \(=4\) in .*; there are those of 3, 5"):
        checkpointer.restore(0, step=4)
    with pytest.raises(TypeError, match=r"`step` \(='5'\) must be a whole number of .* or None"):
        checkpointer.metadata("5")


def test_a_step_is_saved_once_unless_overwritten(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(3, 1)
    with pytest.raises(CheckpointError, match=r"checkpoint of `step` \(=3\) .*`overwrite=True`"):
        checkpointer.save(3, 2)
    assert checkpointer.restore(0) == 1
    checkpointer.save(3, 2, overwrite=True)
    assert checkpointer.restore(0) == 2


def saved(tmp_path, figures, **keep):
    """The steps left when `figures` (step to metric) are saved in order."""
    checkpointer = Checkpointer(tmp_path, **keep)
    for step, figure in figures.items():
        checkpointer.save(step, step, metrics=None if figure is None else {"acc": figure})
        assert checkpointer.restore(0, step=step) == step
    assert listed(tmp_path) == [f"step_{step:08d}" for step in checkpointer.steps()]
    return checkpointer.steps()


def test_the_last_are_kept(tmp_path):
    assert saved(tmp_path, dict.fromkeys(range(10, 60, 10))) == [30, 40, 50]


def test_all_are_kept_if_asked(tmp_path):
    assert saved(tmp_path, dict.fromkeys(range(6)), keep_last=None, keep_every=5) == list(range(6))


def test_every_so_many_are_kept(tmp_path):
    kept = saved(tmp_path, dict.fromkeys(range(0, 80, 10)), keep_last=1, keep_every=30)
    assert kept == [0, 30, 60, 70]


def test_the_best_are_kept(tmp_path):
    figures = {
        1: 0.5,
        2: jnp.float32(0.75),
        3: float("nan"),
        4: None,
        5: 0.75,
        6: 0.7,
        7: 0.1,
        8: 0,
    }
    greatest = saved(tmp_path / "max", figures, keep_last=1, keep_best=("acc", "max", 2))
    assert greatest == [2, 5, 8]
    # A NaN is nothing, nor is a metric that is not there; of equals, the earlier.
    assert saved(tmp_path / "min", figures, keep_last=1, keep_best=["acc", "min", 3]) == [1, 7, 8]
    assert saved(tmp_path / "one", figures, keep_last=1, keep_best=("acc", "max", 1)) == [2, 8]


def test_the_best_are_known_to_the_next_process(tmp_path):
    Checkpointer(tmp_path, keep_last=5).save(1, 1, metrics={"acc": 0.9})
    checkpointer = Checkpointer(tmp_path, keep_last=1, keep_best=("acc", "max", 1))
    for step in (2, 3, 4):
        checkpointer.save(step, step, metrics={"acc": 0.1 * step})
    assert checkpointer.steps() == [1, 4]
    # Written over, it is judged by what it says now.
    checkpointer.save(1, 1, metrics={"acc": 0.0}, overwrite=True)
    checkpointer.save(5, 5)
    assert checkpointer.steps() == [4, 5]


def test_the_one_written_last_is_kept_even_behind_others(tmp_path):
    assert saved(tmp_path, {100: 1, 200: 1, 300: 1, 50: 1}, keep_last=2) == [50, 200, 300]


def test_a_damaged_old_one_does_not_stop_a_save(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, 1)
    checkpointer.wait()
    (tmp_path / "step_00000001" / "manifest.json").write_text("{}")
    checkpointer = Checkpointer(tmp_path, keep_best=("acc", "max", 1))
    checkpointer.save(2, 2)
    assert checkpointer.steps() == [1, 2]


def test_one_that_cannot_be_read_now_is_not_removed(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path, keep_last=1, keep_best=("acc", "max", 1))
    checkpointer.save(1, 1, metrics={"acc": 0.9})
    checkpointer.close()
    opened = os.open

    def failing(path, flags, *args, **kwargs):
        if str(path).endswith("step_00000001/manifest.json"):
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)
    later = Checkpointer(tmp_path, keep_last=1, keep_best=("acc", "max", 1))
    later.save(2, 2, metrics={"acc": 0.5})
    later.save(3, 3, metrics={"acc": 0.4})
    later.wait()
    monkeypatch.undo()
    assert later.steps() == [1, 2, 3]
    later.save(4, 4, metrics={"acc": 0.3})
    assert later.steps() == [1, 4]


def test_a_checkpoint_that_is_removed_while_it_is_read_is_told(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, 1)
    read = _load.read_manifest

    def late(folder):
        manifest = read(folder)
        shutil.rmtree(folder)
        return manifest

    checkpointer.wait()
    monkeypatch.setattr(_load, "read_manifest", late)
    with pytest.raises(CheckpointNotFoundError, match=r"removed while it was being read.* newer"):
        checkpointer.restore(0)


def test_another_process_may_be_faster_at_removing(tmp_path, monkeypatch):
    remove = implementation.remove

    def late(path):
        shutil.rmtree(path)
        remove(path)

    monkeypatch.setattr(implementation, "remove", late)
    assert saved(tmp_path, {1: None, 2: None, 3: None}, keep_last=1) == [3]


def test_one_that_cannot_be_removed_is_told(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(implementation, "remove", refuse)
    checkpointer = Checkpointer(tmp_path, keep_last=1)
    checkpointer.save(1, 1)
    checkpointer.save(2, 2)
    with pytest.raises(CheckpointError, match=r"step 2 was saved, but that of step 1, .*denied"):
        checkpointer.wait()
    assert checkpointer.steps() == [1, 2]


def test_metrics_are_numbers(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for value in ("high", np.zeros(2), None):
        with pytest.raises(TypeError, match=r"`metrics\['acc'\]` .* is not a number") as raised:
            checkpointer.save(1, 1, metrics={"acc": value})
        assert isinstance(raised.value, TreadleError)
    with pytest.raises(TypeError, match="too large for a float"):
        checkpointer.save(1, 1, metrics={"acc": 10**400})
    checkpointer.save(1, 1, metrics={"acc": math.inf})


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (
            {"keep_last": 0},
            ValueError,
            r"`keep_last` \(=0\) must be a whole number .* None to keep all",
        ),
        ({"keep_last": "3"}, TypeError, r"`keep_last` \(='3'\) .* not of type str"),
        ({"keep_last": True}, TypeError, r"`keep_last` \(=True\) .* not of type bool"),
        (
            {"keep_every": -5},
            ValueError,
            r"`keep_every` \(=-5\) must be .* at least 1, or",
        ),
        ({"keep_best": "acc"}, TypeError, r"`keep_best` \(='acc'\) must be the name of a metric"),
        ({"keep_best": ("acc", "max")}, TypeError, r"such as \('eval/accuracy', 'max', 2\)"),
        ({"keep_best": (1, "max", 1)}, TypeError, r"`keep_best\[0\]` \(=1\)"),
        ({"keep_best": ("a", "up", 1)}, ValueError, r"`keep_best\[1\]` \(='up'\) must be 'min' or"),
        (
            {"keep_best": ("a", "max", 0)},
            ValueError,
            r"`keep_best\[2\]` \(=0\) must be",
        ),
    ],
)
def test_what_cannot_be_kept_is_told(tmp_path, keep, error, message):
    with pytest.raises(error, match=message) as raised:
        Checkpointer(tmp_path, **keep)
    assert isinstance(raised.value, TreadleError)


def test_steps_and_directories_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"`step` \(=-1\) must be a whole number of at least 0"):
        Checkpointer(tmp_path).save(-1, 0)
    with pytest.raises(TypeError, match=r"`step` \(=1\.5\) must be .* not of type float"):
        Checkpointer(tmp_path).save(1.5, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"`directory` \(='.*file'\) is a file"):
        Checkpointer(tmp_path / "file")
