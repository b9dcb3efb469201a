"""A tracker that fails ends no training, keeps no row from others, and is told once."""

import errno
import logging
import os

import jax
import pytest
from tests.helpers import assert_same
from tests.track.training import in_tensorboard, train

import treadle
from treadle.track import CSV, JSONL, All, TensorBoard, Tracker
from treadle.track._guarded import Guarded


class BrokenError(Exception):
    """What goes wrong in these tests."""


class Kept(Tracker):
    """Keeps what it is told, and fails where it is asked to."""

    def __init__(self, failing=lambda call: False):
        self.failing = failing
        self.calls = []

    def _called(self, name, step=None):
        self.calls.append((name, step))
        if self.failing((name, step)):
            raise BrokenError(f"{name} of {step}")

    def log(self, step, row):
        self._called("log", step)

    def resume(self, step):
        self._called("resume", step)

    def flush(self):
        self._called("flush")

    def close(self):
        self._called("close")

    def steps(self):
        return [step for name, step in self.calls if name == "log"]


class OtherKept(Kept):
    """The same under another name."""


def warnings_in(caplog):
    return [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    state, _ = train(folder, trackers={"none": Kept()})
    return state.copy(), (folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("broken", ["log", "resume", "flush", "close"])
def test_the_training_goes_on(tmp_path, straight, caplog, broken):
    tracker = OtherKept(lambda call: call[0] == broken)
    fine = Kept()
    state, history = train(tmp_path, trackers={"broken": tracker, "fine": fine})
    assert int(state.step) == 24
    assert history.stopped is None
    assert_same(state, straight[0])
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight[1]
    assert sorted(set(fine.steps())) == list(range(1, 25))
    first, last = warnings_in(caplog)
    assert first.name == last.name == "treadle"
    assert first.getMessage().startswith("The tracker OtherKept failed")
    assert f"BrokenError: {broken} of" in first.getMessage()
    # The user sees where in their tracker it was.
    assert isinstance(first.exc_info[1], BrokenError)
    lost = 29 if broken in ("log", "resume") else 0
    assert f"did not take {lost} of 29 rows" in last.getMessage()


def test_the_rows_of_the_run_may_fail_too(tmp_path, straight, caplog, monkeypatch):
    """A disk that is full for some time: nothing is lost, the training does not end."""
    sync, failing = os.fsync, []

    def full(descriptor):
        rows = tmp_path / "metrics.jsonl"
        if failing and rows.exists() and os.path.samestat(os.fstat(descriptor), rows.stat()):
            failing.pop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    failing.append(True)
    monkeypatch.setattr(os, "fsync", full)
    state, _ = train(tmp_path, trackers={"none": Kept()})
    assert not failing
    assert_same(state, straight[0])
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight[1]
    first, last = warnings_in(caplog)
    assert "The tracker JSONL failed." in first.getMessage()
    assert "OSError: [Errno 28]" in first.getMessage()
    assert "failed once; it did not take 0 of 29 rows" in last.getMessage()


def test_ctrl_c_is_no_error_of_a_tracker(tmp_path):
    class Interrupted(Kept):
        def log(self, step, row):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded(Interrupted()).log(1, {})


def test_it_is_tried_again_ever_more_seldom(caplog):
    tracker = Kept(lambda call: call[0] == "log" and call[1] < 40)
    guarded = Guarded(tracker)
    guarded.resume(0)
    for step in range(1, 70):
        guarded.log(step, {})
    # After 0, 1, 3, 7, 15 and 31 rows; when it takes one, each.
    assert tracker.steps() == [1, 2, 4, 8, 16, 32, *range(64, 70)]
    assert len(warnings_in(caplog)) == 1
    guarded.close()
    told = warnings_in(caplog)[1].getMessage()
    assert told == (
        "The tracker Kept failed 6 times; it did not take 63 of 69 rows. "
        "Last: BrokenError: log of 32"
    )
    # The next training is another matter.
    tracker.failing = lambda call: True
    guarded.resume(0)
    assert len(warnings_in(caplog)) == 3


def test_what_is_logged_after_the_end_is_another_matter(caplog):
    guarded = Guarded(Kept(lambda call: call[0] == "log"))
    for count in (1, 2):
        guarded.log(1, {})
        guarded.close()
        guarded.close()
        assert len(warnings_in(caplog)) == 2 * count
    assert "failed once; it did not take 1 of 1 rows" in warnings_in(caplog)[-1].getMessage()


def test_it_waits_no_longer_than_some_rows():
    tracker = Kept(lambda call: call[0] == "log")
    guarded = Guarded(tracker)
    for step in range(5_000):
        guarded.log(step, {})
    tried = tracker.steps()
    assert tried[-1] - tried[-2] == 1_001


def test_no_rows_come_before_the_old_ones_are_dropped(caplog):
    """Or they would be there twice, when it comes back."""
    tracker = Kept(lambda call: call[0] == "resume" and len(tracker.calls) < 3)
    guarded = Guarded(tracker)
    guarded.resume(10)
    guarded.flush()
    for step in (11, 12, 13):
        guarded.log(step, {})
    assert tracker.calls == [("resume", 10)] * 3 + [("log", 12), ("log", 13)]


def test_all_gives_each_every_row(caplog):
    first, second = Kept(lambda call: call[1] == 2), OtherKept()
    both = All([first, second])
    assert both.trackers == (first, second)
    both.resume(0)
    for step in (1, 2, 3):
        both.log(step, {"loss": 1.0})
    both.flush()
    both.close()
    assert first.calls == second.calls
    assert second.steps() == [1, 2, 3]
    told = [each.getMessage() for each in warnings_in(caplog)]
    assert "The tracker Kept failed at step 2" in told[0]
    assert "failed once; it did not take 1 of 3 rows" in told[1]


@pytest.mark.parametrize(
    ("trackers", "error", "says"),
    [
        ([], treadle.ArgumentValueError, r"`trackers` is empty"),
        ([Kept(), 3], treadle.ArgumentTypeError, r"`trackers` holds 3, which is not a"),
        (Kept(), treadle.ArgumentTypeError, r"`trackers` is a single Kept: put it into a list"),
        ("csv", treadle.ArgumentTypeError, r"`trackers` \(='csv'\) must be a list"),
        ([KEPT := Kept(), KEPT], treadle.ArgumentValueError, r"`trackers` holds one twice"),
        ([All([All([KEPT])]), KEPT], treadle.ArgumentValueError, r"`trackers` holds one twice"),
    ],
)
def test_what_all_does_not_take(trackers, error, says):
    with pytest.raises(error, match=says):
        All(trackers)


class Full:
    """A file on a disk that takes so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.file.write(data[: self.room])
        self.room -= written
        return written


def log_and_flush(tracker, step):
    tracker.log(step, {"loss": float(step)})
    tracker.flush()


@pytest.mark.parametrize("room", [0, 1, 20])
def test_a_full_disk_leaves_no_half_of_a_row(tmp_path, room):
    board, rows = TensorBoard(tmp_path / "board"), JSONL(tmp_path / "rows.jsonl")
    for tracker in (board, rows):
        tracker.log(1, {"loss": 1.0})
        tracker.flush()
        tracker._file = Full(tracker._file, room)
        with pytest.raises(OSError, match="No space left"):
            log_and_flush(tracker, 2)
        tracker._file = tracker._file.file
        tracker.log(3, {"loss": 3.0})
        tracker.close()
    assert in_tensorboard(tmp_path / "board") == {"loss": [(1, 1.0), (3, 3.0)]}
    # It keeps what it could not write.
    assert [row["step"] for row in rows.rows()] == [1, 2, 3]


def test_csv_keeps_what_it_could_not_write(tmp_path, monkeypatch):
    table = CSV(tmp_path / "rows.csv")
    table.log(1, {"loss": 1.0})
    table.flush()
    table.log(2, {"loss": 2.0})

    def broken(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="Input/output error"):
            table.flush()
    table.log(3, {"loss": 3.0})
    assert [row["step"] for row in table.rows()] == ["1", "2", "3"]


def no_room(*paths):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_csv_has_its_header_also_where_the_first_try_failed(tmp_path, monkeypatch):
    table = CSV(tmp_path / "rows.csv")
    table.log(1, {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_room)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                table.flush()
    table.log(2, {"loss": 2.0})
    assert table.rows() == [{"step": "1", "loss": "1.0"}, {"step": "2", "loss": "2.0"}]


def test_rows_that_are_lost_at_the_end_are_told(tmp_path, monkeypatch, caplog):
    guarded = Guarded(CSV(tmp_path / "rows.csv"))
    guarded.log(1, {"loss": 1.0})
    monkeypatch.setattr(os, "replace", no_room)
    guarded.close()
    says = "did not take 0 of 1 rows, and those that it still held are lost. Last: OSError"
    assert says in warnings_in(caplog)[-1].getMessage()


@pytest.mark.parametrize("kind", [JSONL, CSV])
def test_a_process_may_go_elsewhere(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = kind("rows")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    assert (tmp_path / "rows").exists()


@pytest.mark.parametrize("kind", [JSONL, CSV])
def test_an_evaluation_that_comes_again_is_there_once(tmp_path, kind):
    tracker = kind(tmp_path / "rows")
    tracker.log(4, {"loss": 0.5})
    tracker.log(4, {"eval/norm": 2.0})
    tracker.close()
    tracker.resume(4)
    tracker.log(4, {"eval/norm": 2.0})
    tracker.log(5, {"loss": 0.25})
    tracker.close()
    assert [int(row["step"]) for row in tracker.rows()] == [4, 4, 5]


def test_an_error_of_the_device_is_no_error_of_the_tracker():
    class Metrics(dict):
        ready = True

        def items(self):
            raise jax.errors.JaxRuntimeError("the device is gone")

    log = treadle.callbacks.Log(Kept(), 1)
    log._pending.append((1, Metrics(), ""))
    with pytest.raises(jax.errors.JaxRuntimeError, match="the device is gone"):
        log.flush()
