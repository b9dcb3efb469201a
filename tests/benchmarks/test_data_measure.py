"""The benchmark of data sources: what counts as waiting, and what its tables say."""

import itertools

import jax
import pytest
from benchmarks.measures import _data_child, _data_sources, data
from benchmarks.measures._data_child import Watch


@pytest.fixture(autouse=True)
def _loose_jax():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Context:
    """A step that is over, or not."""

    def __init__(self, ready):
        self.metrics = self
        self.ready = ready


def test_only_what_the_device_waits_for_counts(monkeypatch):
    # Each `next` takes a second.
    clock = itertools.count()
    monkeypatch.setattr(_data_child.time, "perf_counter", lambda: float(next(clock)))
    watch = Watch("abc")
    assert next(watch) == "a"
    watch.on_step(Context(ready=False))
    assert next(watch) == "b"
    assert (watch.taken, watch.waited) == (2.0, 0.0)
    watch.on_step(Context(ready=True))
    assert next(watch) == "c"
    assert (watch.taken, watch.waited) == (3.0, 1.0)


def test_a_source_is_timed_alone_and_fed_in_two_ways():
    found = _data_child.rates("tiny", ["arrays"], count=32, turns=2, seconds=0.0)
    assert list(found) == ["arrays"]
    for turn in found["arrays"]:
        assert turn["step"] > 0
        assert turn["alone"] > 0
        for way in ("bare", "ahead"):
            assert turn[way]["rate"] > 0
            assert turn[way]["opening"] > 0
            assert 0 <= turn[way]["wait_percent"] <= 100
            assert turn[way]["wait_percent"] <= turn[way]["next_percent"] + 1


@pytest.mark.parametrize("name", ["arrays", "huggingface", "huggingface-stream", "grain", "tfds"])
def test_every_source_gives_the_same_kind_of_batch(name, tmp_path):
    source = _data_sources.SOURCES[name]
    if source.missing():
        pytest.skip(f"{source.missing()} is not installed")
    config = _data_child.CONFIGS["small"]
    pair = _data_sources.examples(config, 12)
    inputs, labels = next(iter(source.make(pair, 4, tmp_path)))
    assert (inputs.shape, inputs.dtype) == ((4, 32), "float32")
    assert (labels.shape, labels.dtype) == ((4,), "int32")
    rows = {row.tobytes(): int(label) for row, label in zip(*pair, strict=True)}
    assert [rows[row.tobytes()] for row in inputs] == labels.tolist()


def fed(rate, wait):
    return {"opening": 0.5, "rate": rate, "next_percent": 50.0, "wait_percent": wait}


DATA = {
    "configs": {
        "ref": {
            "arrays": [
                [{"step": 10.0, "alone": 30.0, "bare": fed(9.0, 5.0), "ahead": fed(10.0, 1.0)}],
                [{"step": 10.0, "alone": 50.0, "bare": fed(9.0, 5.0), "ahead": fed(10.0, 3.5)}],
            ],
            "grain": [
                [{"step": 10.0, "alone": 19.0, "bare": fed(8.0, 20.0), "ahead": fed(9.0, 10.0)}]
            ],
        }
    },
    "skipped": {"torch": "torch"},
    "versions": {"grain": "0.2"},
}


def test_tables_and_goals():
    (table,) = data.tables(DATA)
    assert table.rows[0][0] == "arrays"
    assert table.rows[0][1:4] == ("0.50", "40.0 (30.0-50.0)", "4.00 (3.00-5.00)")
    assert table.rows[0][4:] == ("9.00", "10.0", "5.00", "2.25 (1.00-3.50)")
    assert "torch (torch)" in " ".join(table.notes)
    assert "grain 0.2" in " ".join(table.notes)
    # Of a source that is less than twice as fast as the step, nothing is asked.
    (goal,) = data.goals(DATA)
    assert (goal.measured, goal.bound, goal.met) == (2.25, 2.0, False)
    assert "arrays" in goal.name


def test_unknown_names_are_refused():
    from benchmarks._options import Options

    with pytest.raises(ValueError, match="`--only` names nobody"):
        data.measure(Options(only=("nobody",)), None)
    with pytest.raises(ValueError, match="`--config` names nothing"):
        data.measure(Options(configs=("nothing",)), None)
