"""What other processes leave behind: put back, removed, or left alone."""

import os
import shutil
import subprocess
import sys
import threading

import pytest
from tests.helpers import listed, run_script

from treadle import Checkpointer
from treadle.checkpoint import _exchange, _flock, _folders, load, save


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def aside(folder, name, role, pid, host=_folders._HOST):
    path = folder / f".{name}.{role}-{host}-{pid}-0123abcd"
    path.mkdir()
    (path / "leaves-00000.eqx").write_bytes(b"half")
    return path


def test_what_a_dead_process_left_is_removed(tmp_path, dead_pid):
    save(tmp_path / "step_00000001", 1)
    for role in ("new", "gone", "old"):
        aside(tmp_path, "step_00000001", role, dead_pid)
    aside(tmp_path, "step_00000002", "new", dead_pid)
    # Of an earlier process that had the number of this one, as in a container.
    aside(tmp_path, "step_00000003", "new", os.getpid())
    # Locks end with a process, on whatever machine it was.
    aside(tmp_path, "step_00000004", "new", 1, host="elsewhere")
    assert Checkpointer(tmp_path).steps() == [1]
    assert listed(tmp_path) == ["step_00000001"]


def test_what_a_process_is_at_work_on_is_left_alone(tmp_path):
    save(tmp_path / "step_00000001", 1)
    mine = _folders.Aside(tmp_path / "step_00000002", "new")
    mine.make()
    strangers = [tmp_path / ".git", tmp_path / ".step_00000001.new-x"]
    for path in strangers:
        path.mkdir()
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(5, 5)
    assert checkpointer.steps() == [1, 5]
    assert all(path.exists() for path in [mine.path, *strangers])
    mine.release()
    assert not mine.path.exists()


def test_without_locks_numbers_of_processes_tell(tmp_path, monkeypatch, dead_pid):
    monkeypatch.setattr(_flock, "try_lock", lambda descriptor: None)
    mine = _folders.Aside(tmp_path / "step_00000002", "new")
    mine.make()
    others = [
        mine.path,
        aside(tmp_path, "step_00000002", "new", os.getppid()),
        aside(tmp_path, "step_00000003", "new", 1),
        aside(tmp_path, "step_00000004", "new", dead_pid, host="elsewhere"),
    ]
    gone = [
        aside(tmp_path, "step_00000005", "new", dead_pid),
        # Of an earlier process that had the number of this one, as in a container.
        aside(tmp_path, "step_00000006", "new", os.getpid()),
    ]
    Checkpointer(tmp_path)
    assert all(path.exists() for path in others)
    assert not any(path.exists() for path in gone)
    mine.release()
    assert not mine.path.exists()


def test_a_folder_that_was_taken_for_a_dead_one_s_is_made_again(tmp_path, monkeypatch):
    # In the moment between making and locking it, another process may clean.
    made = []

    def racing(path, *args, mkdir=os.mkdir):
        mkdir(path, *args)
        if ".new-" in str(path) and not made:
            made.append(_flock.lock_folder(path))

    monkeypatch.setattr(os, "mkdir", racing)
    save(tmp_path / "t", 1)
    made[0].release()
    assert load(tmp_path / "t", 0) == 1
    Checkpointer(tmp_path)
    assert listed(tmp_path) == ["t"]


def test_what_was_moved_away_by_a_dead_process_is_put_back(tmp_path, dead_pid):
    save(tmp_path / "step_00000001", 1)
    moved = tmp_path / f".step_00000001.old-{_folders._HOST}-{dead_pid}-0123abcd"
    os.rename(tmp_path / "step_00000001", moved)
    # At once by who asks for it, and for good by the next one to write there.
    assert load(tmp_path / "step_00000001", 0) == 1
    assert moved.exists()
    assert Checkpointer(tmp_path).steps() == [1]
    assert not moved.exists()
    os.rename(tmp_path / "step_00000001", moved)
    save(tmp_path / "step_00000002", 2)
    assert moved.exists()
    # Without being asked to, nobody writes over it either.
    with pytest.raises(ValueError, match="exists already"):
        save(tmp_path / "step_00000001", 3)
    assert load(tmp_path / "step_00000001", 0) == 1
    save(tmp_path / "step_00000001", 3, overwrite=True)
    assert load(tmp_path / "step_00000001", 0) == 3
    assert listed(tmp_path) == ["step_00000001", "step_00000002"]


def test_what_a_failing_disk_left_is_put_back_by_the_same_process(tmp_path, monkeypatch):
    save(tmp_path / "t", 1)
    renames = []

    def failing(source, target, *, rename=os.rename):
        renames.append(target)
        if len(renames) > 1:
            raise OSError("the disk is gone")
        rename(source, target)

    monkeypatch.setattr(_folders, "exchange", lambda new, path: False)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(ValueError, match=r"could not be written: the disk is gone"):
        save(tmp_path / "t", 2, overwrite=True)
    assert not (tmp_path / "t").exists()
    monkeypatch.undo()
    assert load(tmp_path / "t", 0) == 1
    assert Checkpointer(tmp_path).steps() == []
    assert listed(tmp_path) == ["t"]
    assert load(tmp_path / "t", 0) == 1


def test_a_process_of_another_user_is_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(_flock, "try_lock", lambda descriptor: None)

    def refuse(pid, number):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    path = aside(tmp_path, "t", "new", 2**22 - 1)
    Checkpointer(tmp_path)
    assert path.exists()


def test_half_a_checkpoint_is_never_found(tmp_path, dead_pid):
    aside(tmp_path, "t", "old", dead_pid)
    aside(tmp_path, "t", "new", dead_pid)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint at"):
        load(tmp_path / "t", 0)


KILL = """
import os, sys
import numpy as np
from treadle.checkpoint import Checkpointer, _folders, load, save

if sys.argv[2] == "renames":
    _folders.exchange = lambda new, path: False

directory, trees = sys.argv[1], [[np.full(3, fill)] for fill in range(3)]
for at in range(100):
    path = f"{directory}/{at}/step_00000001"
    save(path, trees[0])
    child = os.fork()
    if child == 0:
        calls = iter(range(at))
        def dying(function):
            def call(*args, **kwargs):
                if next(calls, None) is None:
                    os._exit(1)
                return function(*args, **kwargs)
            return call
        for name in ("mkdir", "rename", "fsync", "unlink", "rmdir"):
            setattr(os, name, dying(getattr(os, name)))
        save(path, trees[1], overwrite=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    read = int(load(path, trees[2])[0][0])
    assert read == 1 if status == 0 else read in (0, 1), (at, read, status)
    assert Checkpointer(f"{directory}/{at}").steps() == [1]
    assert load(path, trees[2])[0].tolist() == [read] * 3
    left = os.listdir(f"{directory}/{at}")
    assert [name for name in left if name != ".lock"] == ["step_00000001"]
    if status == 0:
        break
print("killed", at, "times")
"""


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_process_that_is_killed_anywhere_leaves_a_checkpoint(tmp_path, way):
    done = run_script(KILL, tmp_path, way)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) >= 9


def test_a_folder_that_cannot_be_synced_is_written_all_the_same(tmp_path, monkeypatch):
    def refuse(descriptor, *, sync=os.fsync):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    save(tmp_path / "t", 1)
    assert load(tmp_path / "t", 0) == 1


def test_everything_is_synced_before_it_has_its_name(tmp_path, monkeypatch):
    events = []

    def seen(descriptor, *, sync=os.fsync):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def renamed(source, target, *, rename=os.rename):
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(os, "rename", renamed)
    save(tmp_path / "in" / "t", 1)
    # The name of the folder around it, which is new, too.
    above, leaves, manifest, folder, rename, parent = events
    assert above == tmp_path.name
    assert (leaves, manifest) == ("leaves-00000.eqx", "manifest.json")
    assert folder.startswith(".t.new-")
    assert (rename, parent) == ("rename", "in")


def test_a_new_parent_that_vanishes_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "mkdir", lambda *args, **kwargs: shutil.rmtree(tmp_path))
    with pytest.raises(ValueError, match=r"`path` .* could not be written: \[Errno 2\]"):
        save(tmp_path / "a" / "t", 1)


@pytest.mark.parametrize("during", ["fsync", "rename"])
def test_what_came_to_be_there_meanwhile_is_kept(tmp_path, monkeypatch, during):
    call = getattr(os, during)

    def racing(*args):
        monkeypatch.undo()
        save(tmp_path / "t", 2)
        return call(*args)

    monkeypatch.setattr(os, during, racing)
    with pytest.raises(ValueError, match=r"could not be written: .*not empty"):
        save(tmp_path / "t", 1)
    assert load(tmp_path / "t", 0) == 2
    assert listed(tmp_path) == ["t"]


def test_what_is_written_over_is_never_missing(tmp_path):
    save(tmp_path / "t", 0)
    (tmp_path / "other").mkdir()
    if not _exchange.exchange(tmp_path / "t", tmp_path / "other"):
        pytest.skip("this system cannot let folders change places")
    assert _exchange.exchange(tmp_path / "t", tmp_path / "other")
    (tmp_path / "other").rmdir()
    ended, missing = threading.Event(), []

    def look():
        while not ended.is_set():
            if not (tmp_path / "t" / "manifest.json").exists():
                missing.append(True)

    thread = threading.Thread(target=look)
    thread.start()
    for value in range(1, 50):
        save(tmp_path / "t", value, overwrite=True)
    ended.set()
    thread.join()
    assert missing == []
    assert load(tmp_path / "t", 0) == 49
    assert listed(tmp_path) == ["t"]


def test_paths_that_cannot_change_places_are_told(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match=r"No such file"):
        _exchange.exchange(tmp_path / "a", tmp_path / "nothing")
