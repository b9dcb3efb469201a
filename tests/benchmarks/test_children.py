"""What runs in the measures' processes gives the figures it should."""

import gc
import subprocess
import sys

import jax
import pytest
from benchmarks.measures import _gc_child, _keys_child, _memory_child, _startup_child


@pytest.fixture(autouse=True)
def _loose_jax():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_a_child_begins_with_a_fresh_interpreter():
    # It finds its function among all measures, and times imports, or puts another treadle first.
    code = (
        "import sys, benchmarks.measures as measures; assert measures.MEASURES; "
        "print([name for name in ('jax', 'equinox', 'treadle', 'torch') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")


def test_all_of_the_state_is_aliased():
    for found in _memory_child.aliased("tiny").values():
        assert found["aliased"] == found["state"] > 0


@pytest.mark.parametrize("name", ["floor", "treadle-fit"])
def test_peak_counts_the_model_once(name):
    found = _memory_child.peak(name, width=32)
    assert found["model_bytes"] == 4 * (4 * (32 * 32 + 32) + 32 * 10 + 10)
    assert found["peak_bytes"] > 1e7


def test_the_collector_is_timed_and_counted():
    collector = _gc_child.Collector()
    gc.callbacks.append(collector)
    try:
        gc.collect(0)
        gc.collect()
    finally:
        gc.callbacks.remove(collector)
    assert collector.full == 1
    assert collector.seconds > 0


@pytest.mark.parametrize("name", ["treadle-step", "treadle-fit"])
def test_step_times_of_a_deep_model(name, monkeypatch):
    small = _gc_child.DEEP.__class__("deep", "mlp", 4, input_size=6, width=5, depth=3)
    monkeypatch.setattr(_gc_child, "DEEP", small)
    found = _gc_child.step_times(name, collecting=True, steps=12)
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert found["collector_percent"] >= 0


class Untrained:
    """A contender that does nothing."""

    def build(self, config):
        return self

    def run(self, num_steps):
        pass

    def loss(self):
        return 0.0


def test_the_collector_is_off_where_it_should_be(monkeypatch):
    seen = []
    monkeypatch.setitem(
        _gc_child._TIMED, "floor", lambda run, steps: seen.append(gc.isenabled()) or [0.0, 1.0]
    )
    monkeypatch.setitem(_gc_child.CONTENDERS, "floor", Untrained())
    _gc_child.step_times("floor", collecting=False, steps=1)
    _gc_child.step_times("floor", collecting=True, steps=1)
    assert seen == [False, True]
    assert gc.isenabled()


def test_keys_times_every_way_and_turn():
    found = _keys_child.times(["draw-256"], ["threefry2x32", "rbg"], turns=2, calls=1)
    assert sorted(found) == [
        f"draw-256/{implementation}/{way}"
        for implementation in ("rbg", "threefry2x32")
        for way in ("batch", "example")
    ]
    assert all(len(turns) == 2 and min(turns) > 0 for turns in found.values())


def test_import_time_imports():
    sys.modules.pop("colorsys", None)
    assert _startup_child.import_time(["colorsys"]) > 0
    assert "colorsys" in sys.modules
