"""Full disks, read-only folders, folders that vanish: told, and the older checkpoints stay."""

import contextlib
import errno
import os
import pathlib
import resource
import shutil
import subprocess
import tempfile

import numpy as np
import pytest
from tests.helpers import assert_same, listed

from treadle import Checkpointer, CheckpointError
from treadle.checkpoint import _folders, _leaf_file, _save, load, save

SMALL = {"w": np.arange(8.0)}
LARGE = {"w": np.zeros(1 << 17)}
_NOBODY = 65534


@contextlib.contextmanager
def room_for(nbytes):
    """Files may not be longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def may_not(folder, mode):
    """We have no more rights to a folder than its mode says, even as root."""
    os.chmod(folder, mode)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
        os.chmod(folder, 0o755)


@pytest.fixture
def open_path():
    """A folder that others may look into, unlike pytest's."""
    path = pathlib.Path(tempfile.mkdtemp())
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of half a megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("file systems may not be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture(params=[False, True], ids=["synchronous", "asynchronous"])
def asynchronous(request):
    return request.param


def started(directory, asynchronous):
    """A `Checkpointer` with a checkpoint of step 1."""
    checkpointer = Checkpointer(directory, asynchronous=asynchronous)
    checkpointer.save(1, SMALL)
    checkpointer.wait()
    return checkpointer


def assert_refused(checkpointer, match, tree=LARGE, **options):
    """A save fails: at once, or at the next call with its cause; and that is told once."""

    def save_and_wait():
        checkpointer.save(2, tree, **options)
        checkpointer.wait()

    with pytest.raises(CheckpointError, match=match) as raised:
        save_and_wait()
    if checkpointer.asynchronous and "in the background" in str(raised.value):
        assert isinstance(raised.value.__cause__, CheckpointError)
        assert str(raised.value).startswith("The save of step 2 to ")
    checkpointer.wait()


def assert_as_before(directory, steps=(1,)):
    """The older checkpoints are there, whole, and nothing else."""
    assert listed(directory) == [f"step_{step:08d}" for step in steps]
    for step in steps:
        assert load(directory / f"step_{step:08d}", SMALL)["w"].tolist() == SMALL["w"].tolist()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_gets_too_long_is_told(tmp_path, asynchronous, overwrite):
    checkpointer = started(tmp_path, asynchronous)
    if overwrite:
        checkpointer.save(2, SMALL)
        checkpointer.wait()
    steps = [1, 2] if overwrite else [1]
    with room_for(1 << 16):
        assert_refused(checkpointer, r"could not be written: .*File too large", overwrite=overwrite)
        assert checkpointer.steps() == steps
    assert_as_before(tmp_path, steps)
    # When there is room again, it goes on.
    checkpointer.save(2, SMALL, overwrite=overwrite)
    assert checkpointer.steps() == [1, 2]
    checkpointer.close()


def test_a_full_disk_is_told(tiny_disk, asynchronous):
    checkpointer = started(tiny_disk, asynchronous)
    assert_refused(checkpointer, r"could not be written: .*No space left on device")
    assert_as_before(tiny_disk)
    checkpointer.save(2, SMALL)
    assert checkpointer.steps() == [1, 2]
    checkpointer.close()


def test_a_disk_without_room_for_the_lock_s_note_is_told(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    with room_for(0):
        assert_refused(checkpointer, r"could not be written: .*File too large")
    # Nor does it hold the lock now.
    with Checkpointer(tmp_path) as other:
        other.save(1, SMALL)
    assert_as_before(tmp_path)


def test_a_single_save_without_room_leaves_nothing(tmp_path):
    with room_for(1 << 16), pytest.raises(CheckpointError, match=r"`path` .*File too large.*as it"):
        save(tmp_path / "t", LARGE)
    assert os.listdir(tmp_path) == []


def test_a_read_only_folder_is_told(open_path, asynchronous):
    started(open_path, asynchronous).close()
    with may_not(open_path, 0o555):
        checkpointer = Checkpointer(open_path, asynchronous=asynchronous)
        assert checkpointer.restore(SMALL)["w"].tolist() == SMALL["w"].tolist()
        assert_refused(checkpointer, r"could not be written: .*Permission denied")
        with pytest.raises(CheckpointError, match=r"could not be written: .*Permission denied"):
            save(open_path / "t", SMALL)
        with pytest.raises(CheckpointError, match=r"could not be written: .*Permission denied"):
            save(open_path / "step_00000001", LARGE, overwrite=True)
    assert_as_before(open_path)


def test_a_folder_that_becomes_read_only_is_told(open_path, asynchronous):
    checkpointer = started(open_path, asynchronous)
    with may_not(open_path, 0o555):
        assert_refused(checkpointer, r"could not be written: .*Permission denied")
        assert checkpointer.steps() == [1]
    assert_as_before(open_path)
    checkpointer.close()


def test_a_folder_that_may_not_be_looked_into_is_told(open_path):
    started(open_path, False).close()
    with (
        may_not(open_path, 0o311),
        pytest.raises(CheckpointError, match=r"be looked into: .*denied"),
    ):
        Checkpointer(open_path)


def test_a_read_only_disk_is_told(tiny_disk, asynchronous):
    started(tiny_disk, asynchronous).close()
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    checkpointer = Checkpointer(tiny_disk, asynchronous=asynchronous)
    assert_refused(checkpointer, r"could not be written: .*Read-only file system")
    assert_as_before(tiny_disk)


def during(monkeypatch, name, action, module=_save):
    """Does something before a function of the writer, once."""
    function = getattr(module, name)

    def called(*args, **kwargs):
        monkeypatch.setattr(module, name, function)
        action()
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, called)


MOMENTS = ["write_checkpoint", "_write_leaves", "write_synced", "sync_folder", "put_in_place"]


def at(monkeypatch, moment, action):
    from treadle.checkpoint import _checkpointer

    module = _checkpointer if moment == "write_checkpoint" else _save
    during(monkeypatch, moment, action, module)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_directory_deleted_during_a_save_is_told(tmp_path, monkeypatch, asynchronous, moment):
    directory = tmp_path / "run" / "checkpoints"
    checkpointer = started(directory, asynchronous)
    at(monkeypatch, moment, lambda: shutil.rmtree(directory))
    if moment == "write_checkpoint":  # It is made again then, and no error.
        checkpointer.save(2, SMALL)
        with contextlib.suppress(CheckpointError):
            checkpointer.wait()
    else:
        assert_refused(checkpointer, r"`directory` .* was removed or moved away while")
        assert not directory.exists()
    # As long as it is not begun anew, nothing is written where somebody has deleted it.
    with pytest.raises(CheckpointError, match=r"make a new `Checkpointer`"):
        checkpointer.save(3, SMALL)
    with Checkpointer(directory) as anew:
        anew.save(4, SMALL)
        anew.wait()
    assert 4 in Checkpointer(directory).steps()


def test_a_directory_deleted_before_the_writer_begins_is_not_made_again(
    tmp_path, monkeypatch, asynchronous
):
    directory = tmp_path / "checkpoints"
    checkpointer = started(directory, asynchronous)
    during(monkeypatch, "_write", lambda: shutil.rmtree(directory), Checkpointer)
    assert_refused(checkpointer, r"`directory` .* was removed or moved away while")
    assert not directory.exists()


def test_a_directory_deleted_between_saves_is_told(tmp_path, asynchronous):
    directory = tmp_path / "run" / "checkpoints"
    checkpointer = started(directory, asynchronous)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"`directory` .* was removed or moved away while"):
        checkpointer.save(2, SMALL)
    assert checkpointer.steps() == []
    assert not (tmp_path / "run").exists()
    checkpointer.close()
    checkpointer.save(3, SMALL)
    assert checkpointer.steps() == [3]


@pytest.mark.parametrize("moment", [None, *MOMENTS[1:]])
def test_a_directory_moved_away_is_told(tmp_path, monkeypatch, asynchronous, moment):
    directory, moved = tmp_path / "checkpoints", tmp_path / "moved"
    checkpointer = started(directory, asynchronous)
    if moment is None:
        os.rename(directory, moved)
    else:
        at(monkeypatch, moment, lambda: os.rename(directory, moved))
    assert_refused(checkpointer, r"`directory` .* was removed or moved away while")
    assert not directory.exists()
    # What was begun is there, and goes when somebody begins to write there.
    assert Checkpointer(moved).steps() == [1]
    assert_as_before(moved)


def test_another_directory_in_its_place_is_left_alone(tmp_path, asynchronous):
    directory = tmp_path / "checkpoints"
    checkpointer = started(directory, asynchronous)
    os.rename(directory, tmp_path / "moved")
    other = started(directory, asynchronous)
    assert_refused(checkpointer, r"`directory` .* was removed or moved away while")
    other.save(5, SMALL)
    assert other.steps() == [1, 5]
    checkpointer.close()
    # Nor does the one give up the other's lock.
    assert (directory / ".lock").exists()
    other.close()
    assert not (directory / ".lock").exists()


def test_a_half_written_folder_that_vanishes_is_told(tmp_path, monkeypatch, asynchronous):
    checkpointer = started(tmp_path, asynchronous)

    def vanish():
        (half,) = tmp_path.glob(".step_00000002.new-*")
        shutil.rmtree(half)

    during(monkeypatch, "write_synced", vanish)
    assert_refused(checkpointer, r"could not be written: .*No such file or directory")
    assert_as_before(tmp_path)


def fail(*args):
    raise OSError(errno.EIO, "Input/output error")


def sync_parent(monkeypatch):
    """The last moment at which a disk can fail: the checkpoint has its name by then."""
    monkeypatch.setattr(_folders, "sync_folder", fail)


FAILURES = {
    "fsync": lambda patch: patch.setattr(os, "fsync", fail),
    "write": lambda patch: patch.setattr(os, "write", fail),
    "rename": lambda patch: [patch.setattr(os, "rename", fail), no_exchange(patch)],
    "exchange": lambda patch: patch.setattr(_folders, "exchange", fail),
    "sync of the parent": sync_parent,
    "sync of the parent, renamed twice": lambda patch: [sync_parent(patch), no_exchange(patch)],
}


def no_exchange(monkeypatch):
    monkeypatch.setattr(_folders, "exchange", lambda new, path: False)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_disk_that_fails_is_told(tmp_path, asynchronous, failure, overwrite):
    if failure == "exchange" and not overwrite:
        return
    checkpointer = started(tmp_path, asynchronous)
    if overwrite:
        checkpointer.save(2, SMALL)
        checkpointer.wait()
    with pytest.MonkeyPatch.context() as patch:
        FAILURES[failure](patch)
        assert_refused(
            checkpointer, r"could not be written: .*Input/output error", overwrite=overwrite
        )
    assert_as_before(tmp_path, [1, 2] if overwrite else [1])
    checkpointer.save(2, SMALL, overwrite=overwrite)
    assert checkpointer.steps() == [1, 2]


def test_a_disk_that_fails_meanwhile_is_told_at_the_end(tmp_path, monkeypatch):
    # The system tells of it only once.
    monkeypatch.setattr(os, "fdatasync", fail)
    monkeypatch.setattr(_leaf_file, "_STRIDE", 1)
    file = _leaf_file.LeafFile(tmp_path / "leaves")
    file.write(bytes(1 << 17))
    file._disk._thread.join(60)
    for end in (file.sync, file.close):
        with pytest.raises(OSError, match="Input/output error"):
            end()


def test_what_a_disk_takes_in_pieces_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda to, data, write=os.write: write(to, data[:1000]))
    tree = [np.arange(1e4), *SMALL.values(), np.arange(3e4)]
    save(tmp_path / "t", tree)
    monkeypatch.undo()
    assert_same(load(tmp_path / "t", tree), tree)


def test_older_checkpoints_go_only_after_the_new_one_is_complete(
    tmp_path, monkeypatch, asynchronous
):
    checkpointer = Checkpointer(tmp_path, keep_last=1, asynchronous=asynchronous)
    checkpointer.save(1, SMALL)
    checkpointer.wait()
    with pytest.MonkeyPatch.context() as patch:
        sync_parent(patch)
        assert_refused(checkpointer, r"could not be written: .*Input/output error", SMALL)
    assert_as_before(tmp_path)
    checkpointer.save(2, SMALL)
    assert checkpointer.steps() == [2]
