"""JSONL and CSV: the same rows back, also behind a writer that died."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle import ArgumentTypeError, DataError
from treadle.callbacks import Log
from treadle.track import CSV, JSONL, Tracker, read_jsonl


@given(value=st.floats(width=32))
def test_jsonl_keeps_the_bits(tmp_path_factory, value):
    tracker = JSONL(tmp_path_factory.mktemp("jsonl") / "deep" / "metrics.jsonl")
    tracker.log(1, {"x": float(np.float32(value)), "array": np.ones(2, np.float32)})
    (row,) = tracker.rows()
    assert np.float32(row["x"]).tobytes() == np.float32(value).tobytes() or np.isnan(value)
    assert row["array"] == [1.0, 1.0]
    tracker.close()


@pytest.mark.parametrize("kind", [JSONL, CSV])
def test_resume_drops_later_rows(tmp_path, kind):
    tracker = kind(tmp_path / "rows")
    tracker.resume(0)
    for step in range(1, 6):
        tracker.log(step, {"loss": 1 / step})
    tracker.log(5, {"eval/accuracy": 0.5})
    tracker.close()
    again = kind(tmp_path / "rows")
    again.resume(3)
    again.log(4, {"loss": 0.25})
    assert [int(row["step"]) for row in again.rows()] == [1, 2, 3, 4]
    again.close()


def test_jsonl_survives_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_jsonl(path) == [{"step": 1, "loss": 2.0}]
    tracker = JSONL(path)
    tracker.resume(2)
    tracker.log(2, {"loss": jnp.float32(1.5)})
    tracker.close()
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [2.0, 1.5]
    assert read_jsonl(tmp_path / "missing.jsonl") == []


def test_csv_gains_columns(tmp_path):
    tracker = CSV(tmp_path / "rows.csv")
    tracker.log(1, {"loss": 0.5, "counts": np.arange(2)})
    tracker.flush()
    tracker.log(2, {"eval/accuracy": 1.0})
    tracker.flush()
    tracker.log(3, {"loss": 0.25})
    text = "step,loss,counts/0,counts/1,eval/accuracy\n1,0.5,0,1,\n2,,,,1.0\n3,0.25,,,\n"
    assert [row["loss"] for row in tracker.rows()] == ["0.5", "", "0.25"]
    assert (tmp_path / "rows.csv").read_text() == text


@pytest.mark.parametrize("kind", [JSONL, CSV])
def test_what_a_killed_process_left_is_written_over(tmp_path, kind, monkeypatch):
    def killed(one, other):
        raise KeyboardInterrupt

    tracker = kind(tmp_path / "rows")
    tracker.log(1, {"loss": 0.5})
    tracker.close()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        # As another process would have it.
        patch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            tracker.resume(1)
    assert len(list(tmp_path.iterdir())) == 2
    kind(tmp_path / "rows").resume(1)
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
    assert len(tracker.rows()) == 1
    tracker.close()


@pytest.mark.parametrize("kind", [JSONL, CSV])
def test_what_is_flushed_is_on_the_disk(tmp_path, kind, monkeypatch):
    synced, sync = [], os.fsync

    def fsync(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    tracker = kind(tmp_path / "rows")
    monkeypatch.setattr(os, "fsync", fsync)
    for step in (1, 2):
        tracker.log(step, {"loss": 0.5})
        tracker.flush()
        assert (tmp_path / "rows").stat().st_size in synced[-2:]  # The name may come after it.
    tracker.close()


@pytest.mark.parametrize("tracker", [CSV, [CSV("rows.csv")], "rows.csv"])
def test_what_is_logged_to_is_a_tracker(tracker):
    with pytest.raises(ArgumentTypeError, match=r"`tracker` .* is not a `treadle\.track\.Tracker`"):
        Log(tracker)


@pytest.mark.parametrize("kind", [CSV, JSONL])
def test_a_file_has_a_path(kind):
    with pytest.raises(ArgumentTypeError, match=r"`path` \(=3\) must be the path of a file"):
        kind(3)


@pytest.mark.parametrize(
    ("kind", "text"), [(CSV, "name,age\nx,3\n"), (CSV, "step\nlast\n"), (JSONL, '{"a": 1}\n')]
)
def test_a_file_of_something_else_stays(kind, text, tmp_path):
    (tmp_path / "rows").write_text(text)
    with pytest.raises(DataError, match=r"rows' has a row without a step, .*Name another file"):
        kind(tmp_path / "rows").resume(0)
    assert (tmp_path / "rows").read_text() == text


def test_trackers_are_an_interface():
    with pytest.raises(TypeError, match="abstract"):
        Tracker()
