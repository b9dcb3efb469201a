"""The compilation cache: on by itself, the user's settings first, small programs too, capped."""

import os

import jax
import optax
import pytest

import treadle
from tests.helpers import Net, loss_fn, make_batch
from treadle import _cache


@pytest.fixture
def fresh(monkeypatch):
    """As at the start of a process; everything is put back afterwards."""
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setattr(_cache, "_switched_on", False)
    monkeypatch.delenv("TREADLE_CACHE", raising=False)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    treadle.compilation_cache(before["jax_compilation_cache_dir"])


def run():
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    step(step.init(Net(jax.random.key(1)), key=jax.random.key(0)), make_batch())


def test_on_with_the_first_state_and_stores_small_programs(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    assert not list(tmp_path.iterdir())
    state = step.init(Net(jax.random.key(1)), key=jax.random.key(0))
    step(state, make_batch())
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "treadle" / "xla")
    assert any("train" in name or "step" in name for name in os.listdir(tmp_path / "treadle/xla"))


def test_moved_by_a_call_or_the_environment(fresh, monkeypatch, tmp_path):
    treadle.compilation_cache(tmp_path / "here")
    run()
    assert os.listdir(tmp_path / "here")
    monkeypatch.setattr(_cache, "_switched_on", False)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "there"))
    run()
    assert os.listdir(tmp_path / "there")


@pytest.mark.parametrize("word", ["off", "OFF", "0"])
def test_stopped(fresh, monkeypatch, tmp_path, word):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TREADLE_CACHE", word)
    run()
    assert not list(tmp_path.iterdir())


def test_settings_of_the_user_win(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    run()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7.0
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_cannot_be_made_is_told(fresh, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="cannot be kept in .*treadle.compilation_cache"):
        run()


def test_kept_under_its_size(tmp_path):
    for age, name in enumerate(["newest", "middle", "oldest"]):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    _cache._prune(tmp_path, 250)
    assert sorted(os.listdir(tmp_path)) == ["middle", "newest"]
