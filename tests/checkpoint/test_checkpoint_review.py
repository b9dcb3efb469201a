"""Checkpoints where somebody interrupts, or hands over what nobody expects."""

import signal
import threading

import pytest

import treadle
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


def test_one_checkpointer_in_two_trainings_at_once_is_told(tmp_path):
    checkpointer = treadle.Checkpointer(tmp_path)
    told = pytest.raises(treadle.CheckpointError, match="by a training in this process")
    with checkpointer._exclusively():
        with told, checkpointer._exclusively():
            pass
        checkpointer.save(1, {"a": 1})
    with checkpointer._exclusively():
        checkpointer.save(2, {"a": 1})
    checkpointer.close()


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
        treadle.save(tmp_path / "c", {}, metadata=metadata)


def test_a_metric_too_large_for_a_float_is_told(tmp_path):
    with pytest.raises(treadle.ArgumentTypeError, match="too large for a float"):
        treadle.Checkpointer(tmp_path).save(0, {}, metrics={"a": 10**400})
