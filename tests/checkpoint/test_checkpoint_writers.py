"""One writer for a directory at a time: by lock between processes, by word inside of one."""

import contextlib
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from tests.helpers import listed, run_script, script_environment

from treadle import Checkpointer, CheckpointError
from treadle.checkpoint import _checkpointer, _claim, _flock, _folders, load, save

# A process that writes, and says at each line what it has done; a line from us lets it go on.
WRITER = """
import os, sys
from treadle import Checkpointer
from treadle.checkpoint import _save

directory, *acts = sys.argv[1:]
checkpointer = Checkpointer(directory)

def tell(what):
    print(what, flush=True)
    sys.stdin.readline()

if "half" in acts:
    write = _save.write_synced
    def stop(path, content):
        tell("half")
        write(path, content)
    _save.write_synced = stop
    checkpointer.save(7, 7)
    checkpointer.wait()
else:
    checkpointer.save(7, 7)
    checkpointer.wait()
    if "fork" in acts:
        runs, ran = os.pipe()
        child = os.fork()
        if child == 0:
            # It lets go of the lock before it comes to this line, but not before it runs.
            os.write(ran, b"!")
            os.close(1)
            sys.stdin.readline()
            os._exit(0)
        os.read(runs, 1)
        print(child, flush=True)
    tell("saved")
"""


class Writer:
    """A second process that writes to a directory."""

    def __init__(self, directory, *acts):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(directory), *acts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=script_environment(),
        )

    def says(self):
        return self.process.stdout.readline().strip()

    def goes_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ends(self):
        """Lets it end by itself."""
        self.goes_on()
        assert self.process.wait(60) == 0

    def is_killed(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)


@pytest.fixture
def writer():
    """Makes writers, and ends those that a test leaves."""
    made = []

    def make(*args):
        made.append(Writer(*args))
        return made[-1]

    yield make
    for one in made:
        one.process.kill()
        one.process.wait(60)
        one.process.stdin.close()
        one.process.stdout.close()


def test_a_second_process_is_told_by_whom_and_may_read(tmp_path, writer):
    other = writer(tmp_path)
    assert other.says() == "saved"
    checkpointer = Checkpointer(tmp_path)
    # Reading takes no lock.
    assert checkpointer.steps() == [7]
    assert checkpointer.restore(0) == 7
    assert load(tmp_path / "step_00000007", 0) == 7
    who = rf"by another process \({other.process.pid} on {socket.gethostname()}, since \d{{4}}-"
    with pytest.raises(CheckpointError, match=who):
        checkpointer.save(8, 8)
    with pytest.raises(CheckpointError, match=who), checkpointer._exclusively():
        pass
    assert checkpointer.steps() == [7]
    other.ends()
    assert not (tmp_path / ".lock").exists()
    checkpointer.save(8, 8)
    assert checkpointer.steps() == [7, 8]


def test_a_lock_ends_with_a_process_that_is_killed(tmp_path, writer):
    other = writer(tmp_path)
    assert other.says() == "saved"
    other.is_killed()
    assert (tmp_path / ".lock").exists()
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(8, 8)
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert sorted(os.listdir(tmp_path)) == ["step_00000007", "step_00000008"]


def test_a_lock_ends_with_a_process_whose_children_live_on(tmp_path, writer):
    other = writer(tmp_path, "fork")
    child = int(other.says())
    assert other.says() == "saved"
    try:
        with pytest.raises(CheckpointError, match="is being written by another process"):
            Checkpointer(tmp_path).save(8, 8)
        other.is_killed()
        os.kill(child, 0)
        with Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(8, 8)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


FORKED = """
import gc, os, sys
from treadle import Checkpointer, CheckpointError

directory = sys.argv[1]
checkpointer = Checkpointer(directory)
checkpointer.save(1, 1)
checkpointer.wait()
parent, child = os.getpid(), os.fork()
if child == 0:
    # The claim is the parent's, and stays so whatever the child does.
    try:
        checkpointer.save(2, 2)
    except CheckpointError as error:
        refused = f"by another process ({parent} on " in str(error)
    read = checkpointer.steps()
    checkpointer.close()
    del checkpointer
    gc.collect()
    # JAX does not get out of a forked child in any other way.
    os._exit(0 if refused and read == [1] else 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert os.path.exists(directory + "/.lock")
checkpointer.save(2, 2)
assert checkpointer.steps() == [1, 2]
"""


def test_a_forked_child_is_another_process(tmp_path):
    done = run_script(FORKED, tmp_path)
    assert done.returncode == 0, done.stderr
    # The lock file goes with the process that made it.
    assert not (tmp_path / ".lock").exists()


def test_what_a_dead_writer_left_goes_and_what_a_live_one_uses_stays(tmp_path, writer):
    other = writer(tmp_path, "half")
    assert other.says() == "half"
    (half,) = tmp_path.glob(".step_00000007.new-*")
    assert Checkpointer(tmp_path).steps() == []
    save(tmp_path / "step_00000009", 9)
    assert half.exists()
    other.is_killed()
    assert half.exists()
    assert Checkpointer(tmp_path).steps() == [9]
    assert listed(tmp_path) == ["step_00000009"]


def test_what_a_live_writer_is_at_is_completed(tmp_path, writer):
    other = writer(tmp_path, "half")
    assert other.says() == "half"
    assert Checkpointer(tmp_path).steps() == []
    other.ends()
    assert Checkpointer(tmp_path).restore(0) == 7


def wait_until_saving(monkeypatch):
    """Lets saves wait in the middle: what says that they are there, and what lets them go on."""
    begun, go_on = threading.Event(), threading.Event()
    write = _checkpointer.write_checkpoint

    def waiting(*args):
        begun.set()
        assert go_on.wait(60)
        return write(*args)

    monkeypatch.setattr(_checkpointer, "write_checkpoint", waiting)
    return begun, go_on


def test_a_second_one_in_the_process_takes_over_when_the_first_is_idle(tmp_path):
    first, second = Checkpointer(tmp_path), Checkpointer(tmp_path)
    for step, checkpointer in enumerate([first, second, second, first]):
        checkpointer.save(step, step)
        checkpointer.wait()
    assert first.steps() == second.steps() == [1, 2, 3]
    # It was the first one's again.
    second.close()
    assert (tmp_path / ".lock").exists()
    first.close()
    assert not (tmp_path / ".lock").exists()


def test_a_second_one_in_the_process_waits_for_a_save_under_way(tmp_path, monkeypatch):
    first, second = Checkpointer(tmp_path, keep_last=None), Checkpointer(tmp_path, keep_last=None)
    begun, go_on = wait_until_saving(monkeypatch)
    first.save(1, 1)
    assert begun.wait(60)
    # Nothing of the second one happens while the first one's save is under way.
    claimed = threading.Event()

    def save_and_tell():
        second.save(2, 2)
        claimed.set()

    thread = threading.Thread(target=save_and_tell)
    thread.start()
    assert not claimed.wait(0.05)
    go_on.set()
    thread.join(60)
    assert claimed.is_set()
    assert second.steps() == first.steps() == [1, 2]


def test_nobody_holds_the_guard_while_it_waits_for_a_save(tmp_path, monkeypatch):
    # The save may need it: whoever it finds forgotten, its thread collects.
    waits, free = threading.Event(), []
    settle, write = _claim.Claim.settle, _checkpointer.write_checkpoint

    def settling(self):
        waits.set()
        settle(self)

    def writing(*args):
        assert waits.wait(60)
        free.append(_claim._guard.acquire(timeout=10))
        if free[-1]:
            _claim._guard.release()
        return write(*args)

    first, second = Checkpointer(tmp_path), Checkpointer(tmp_path)
    monkeypatch.setattr(_checkpointer, "write_checkpoint", writing)
    monkeypatch.setattr(second, "wait", lambda: None)
    first.save(1, 1)
    monkeypatch.setattr(_claim.Claim, "settle", settling)
    second.save(2, 2)
    assert first.steps() == [1, 2]
    assert free == [True, True]


def test_a_reader_in_the_process_waits_for_a_save_under_way(tmp_path, monkeypatch):
    first, reader = Checkpointer(tmp_path), Checkpointer(tmp_path)
    begun, go_on = wait_until_saving(monkeypatch)
    first.save(1, 1)
    assert begun.wait(60)
    threading.Timer(0.01, go_on.set).start()
    assert reader.steps() == [1]


def test_a_second_one_in_the_process_is_refused_while_a_training_is_on(tmp_path):
    first, second = Checkpointer(tmp_path), Checkpointer(tmp_path)
    with first._exclusively():
        first.save(1, 1)
        with pytest.raises(CheckpointError, match=r"written by a training in this process: wait"):
            second.save(2, 2)
        with pytest.raises(CheckpointError, match="training in this"), second._exclusively():
            pass
        assert second.steps() == [1]
    second.save(2, 2)
    assert first.steps() == [1, 2]


def test_closing_and_garbage_collection_release(tmp_path, writer):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, 1)
    checkpointer.close()
    assert os.listdir(tmp_path) == ["step_00000001"]
    checkpointer.save(2, 2)
    checkpointer.wait()
    assert (tmp_path / ".lock").exists()
    del checkpointer
    gc.collect()
    assert sorted(os.listdir(tmp_path)) == ["step_00000001", "step_00000002"]
    other = writer(tmp_path)
    assert other.says() == "saved"
    other.ends()


def test_one_that_is_forgotten_while_it_saves_completes_it(tmp_path, monkeypatch):
    begun, go_on = wait_until_saving(monkeypatch)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, 1)
    assert begun.wait(60)
    (thread,) = [one for one in threading.enumerate() if one.name == "treadle-checkpoint"]
    del checkpointer
    gc.collect()
    assert (tmp_path / ".lock").exists()
    go_on.set()
    thread.join(60)
    gc.collect()
    assert os.listdir(tmp_path) == ["step_00000001"]


def test_garbage_at_any_moment_does_no_harm(tmp_path, monkeypatch):
    # The collector may find a forgotten one just when its claim is handed over, in any thread.
    forgotten = [Checkpointer(tmp_path)]
    forgotten[0].save(1, 1)
    forgotten[0].wait()
    hand_over = _claim.Claim.hand_over

    def collecting(self, owner):
        if forgotten:
            forgotten.clear()
            gc.collect()
        return hand_over(self, owner)

    monkeypatch.setattr(_claim.Claim, "hand_over", collecting)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, 2)
        assert checkpointer.steps() == [1, 2]
        assert checkpointer._claim.is_there()
        with open(tmp_path / ".lock") as file:
            assert _flock.try_lock(file.fileno()) is False


def test_the_lock_of_a_directory_by_another_name_is_the_same(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    first, second = Checkpointer(tmp_path / "real"), Checkpointer(tmp_path / "link")
    with first._exclusively(), pytest.raises(CheckpointError, match="training in this process"):
        second.save(1, 1)
    second.save(1, 1)
    assert first.steps() == [1]


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "thesis").write_text("thesis")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".lock").symlink_to(tmp_path / "thesis")
    with pytest.raises(CheckpointError, match=r"could not be written: .*symbolic links"):
        Checkpointer(tmp_path / "c").save(1, 1)
    assert (tmp_path / "thesis").read_text() == "thesis"


def test_without_locks_it_is_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_flock, "try_lock", lambda descriptor: None)
    caplog.set_level(logging.WARNING, "treadle")
    for step in range(3):
        with Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(step, step)
    (record,) = caplog.records
    assert f"The file system of {tmp_path} has no locks, so a second" in record.getMessage()
    # Another process may think that it is at work there too, and its file must stay.
    assert (tmp_path / ".lock").exists()
    assert Checkpointer(tmp_path).steps() == [0, 1, 2]


@pytest.mark.parametrize("note", ["", "{", "[]", '{"pid": 3}', "\0\0"])
def test_a_holder_that_has_not_signed_is_told_without_a_name(tmp_path, note):
    (tmp_path / ".lock").write_text(note)
    lock = _flock.lock_file(tmp_path / ".lock")
    with pytest.raises(CheckpointError, match="written by another process: wait until"):
        Checkpointer(tmp_path).save(1, 1)
    lock.release()
    Checkpointer(tmp_path).save(1, 1)


def test_a_lock_file_that_is_removed_in_between_is_made_again(tmp_path, monkeypatch):
    # The one who held it before removes it after we have opened it and before we lock it.
    removed = []

    def racing(descriptor, *, lock=_flock.try_lock):
        if not removed:
            removed.append(os.unlink(tmp_path / ".lock"))
        return lock(descriptor)

    monkeypatch.setattr(_flock, "try_lock", racing)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer._claimed()
        assert removed
        assert checkpointer._claim.is_there()


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
def test_a_folder_that_was_cleaned_away_at_once_is_made_again(tmp_path, monkeypatch, moment):
    # Between making and locking it, another process may take it for a dead one's and remove it.
    cleaned = []

    def clean(path):
        if ".new-" in str(path) and not cleaned:
            cleaned.append(path)
            os.rmdir(path)

    if moment == "before it is opened":

        def racing(path, *, lock=_folders.lock_folder):
            clean(path)
            return lock(path)

        monkeypatch.setattr(_folders, "lock_folder", racing)
    else:

        def slow(path, flags, *args, opened=os.open, **kwargs):
            descriptor = opened(path, flags, *args, **kwargs)
            clean(path)
            return descriptor

        monkeypatch.setattr(os, "open", slow)
    save(tmp_path / "t", 1)
    assert len(cleaned) == 1
    assert load(tmp_path / "t", 0) == 1
    assert os.listdir(tmp_path) == ["t"]


def test_a_leftover_that_is_no_folder_is_left_alone(tmp_path):
    names = [f".step_00000001.new-{_folders._HOST}-1-0123abc{at}" for at in range(3)]
    os.mkfifo(tmp_path / names[0])
    (tmp_path / names[1]).write_text("thesis")
    (tmp_path / names[2]).symlink_to(tmp_path)
    assert Checkpointer(tmp_path).steps() == []
    assert sorted(os.listdir(tmp_path)) == names


def test_retention_removes_a_link_and_not_what_it_leads_to(tmp_path):
    save(tmp_path / "elsewhere", 1)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "step_00000001").symlink_to(tmp_path / "elsewhere")
    with Checkpointer(tmp_path / "c", keep_last=1) as checkpointer:
        assert checkpointer.restore(0) == 1
        checkpointer.save(2, 2)
    assert os.listdir(tmp_path / "c") == ["step_00000002"]
    assert load(tmp_path / "elsewhere", 0) == 1


def test_one_checkpointer_in_two_trainings_at_once_is_told(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    told = pytest.raises(CheckpointError, match="by a training in this process")
    with checkpointer._exclusively():
        with told, checkpointer._exclusively():
            pass
        checkpointer.save(1, {"a": 1})
    with checkpointer._exclusively():
        checkpointer.save(2, {"a": 1})
    checkpointer.close()
