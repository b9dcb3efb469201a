"""Checkpoints where somebody interrupts: Ctrl-C at any moment leaves nothing half."""

import shutil
import signal
import threading

import pytest
from tests.helpers import listed

import treadle
from treadle.checkpoint import _flock
from treadle.checkpoint._background import Background


def _interrupt():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_an_interrupt_while_waiting_leaves_the_save_under_way():
    background, goes_on, done = Background(), threading.Event(), []

    def job():
        _interrupt()
        goes_on.wait()
        done.append(True)

    def start_and_wait():
        background.start("it", job)
        background.wait()

    with pytest.raises(KeyboardInterrupt):
        start_and_wait()
    threading.Thread(target=goes_on.set).start()
    background.wait()
    assert done


@pytest.mark.parametrize("began", [True, False])
def test_an_interrupt_while_a_save_begins_leaves_nothing_half(tmp_path, monkeypatch, began):
    start = threading.Thread.start

    def interrupted(thread):
        if thread.name == "treadle-checkpoint":
            if began:
                start(thread)
                thread.join()
            raise KeyboardInterrupt
        start(thread)

    checkpointer = treadle.Checkpointer(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save(1, {"a": 1})
    assert not checkpointer._claim._saves
    assert checkpointer.steps() == [1] * began
    checkpointer.save(2, {"a": 1})
    assert checkpointer.steps() == [1, 2][not began :]
    checkpointer.close()


def test_an_interrupt_while_a_folder_is_removed_ends_its_lock(tmp_path, monkeypatch):
    treadle.save(tmp_path / "c", 1)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    before = set(_flock._open)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            treadle.save(tmp_path / "c", 2, overwrite=True)
    assert set(_flock._open) == before
    # So that the next one may remove what is left.
    treadle.save(tmp_path / "c", 3, overwrite=True)
    assert listed(tmp_path) == ["c"]
