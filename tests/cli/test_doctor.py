"""`treadle doctor`: what it looks at, and what it says has to be changed."""

import json
import types
from typing import Any

import jax
import pytest
from packaging.requirements import Requirement
from tests.helpers import run_script

import treadle
from treadle import _cache
from treadle._cache_hits import FILE, Hits, _shorten, hits_in
from treadle._cli import main
from treadle._cli._doctor import _cached, _machine, _variables, _versions

config: Any = jax.config  # Its options are not in JAX's type stubs.


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """A wide terminal, and none of the variables that the doctor tells of."""
    import os

    for name in list(os.environ):
        if name.startswith("JAX_") or name in _variables._PLAIN:
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TREADLE_CACHE", "off")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The cache as treadle switches it on, in a folder of the test."""
    before = config.jax_compilation_cache_dir
    monkeypatch.setattr(_cache, "_switched_on", False)
    monkeypatch.setenv("TREADLE_CACHE", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path
    treadle.compilation_cache(before)


def named(checks):
    return {check.name: check for check in checks}


def test_tells_and_exits_with_0_where_nothing_is_wrong(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "[x]  jax  " in out
    assert jax.__version__ in out
    assert "devices (cpu)" in out
    assert "Nothing has to be changed; 1 remark." in out  # The cache is off.


def test_exits_with_1_where_something_is(capsys, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"]
    wrong = [check["name"] for check in told["checks"] if check["state"] == "change"]
    assert wrong == ["JAX_DISABLE_JIT"]


# -- versions --------------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch):
    """What is installed, and what it needs, as the test says."""
    have = {"treadle": "0.1.0", "jax": "0.10.2", "jaxlib": "0.10.2", "optax": "0.2.8"}
    needs = {
        "treadle": [
            "jax>=0.6.1",
            "jaxlib>=0.6.1",
            "optax>=0.2.5",
            "flax>=0.10; extra == 'interop'",
        ],
        "jax": ["jaxlib<=0.10.2,>=0.10.1"],
        "flax": ["jax>=0.8"],
    }
    monkeypatch.setattr(_versions, "_version", have.get)
    monkeypatch.setattr(
        _versions, "_requirements", lambda name: [Requirement(each) for each in needs.get(name, [])]
    )
    return have


def test_versions_that_fit(installed):
    checks = named(_versions.versions())
    assert list(checks) == ["Python", "treadle", "jax", "jaxlib", "optax"]
    assert all(check.state == "ok" for check in checks.values())


def test_versions_that_do_not_fit_each_other(installed):
    installed["jaxlib"] = "0.9.0"
    check = named(_versions.versions())["jaxlib"]
    assert check.state == "change"
    assert "jax needs jaxlib<=0.10.2,>=0.10.1" in check.advice
    assert "'jaxlib>=0.6.1' 'jaxlib<=0.10.2,>=0.10.1'" in check.advice


def test_what_an_installed_extra_needs_counts(installed):
    installed.update(jax="0.7.2", jaxlib="0.10.1", flax="0.12.0")
    checks = named(_versions.versions())
    assert "flax needs jax>=0.8" in checks["jax"].advice
    assert checks["flax"].state == "ok"


def test_what_is_missing(installed):
    del installed["optax"]
    check = named(_versions.versions())["optax"]
    assert check.state == "change"
    assert "pip install 'optax>=0.2.5'" in check.advice


def test_a_plugin_of_another_version(installed):
    installed["jax-cuda12-plugin"] = "0.9.0"
    check = named(_versions.versions())["jax-cuda12-plugin"]
    assert check.state == "change"
    assert "jaxlib is 0.10.2" in check.advice


# -- the machine -----------------------------------------------------------------------------------


def test_a_gpu_that_jax_does_not_see(monkeypatch):
    monkeypatch.setattr(_machine, "_has_nvidia", lambda: True)
    assert "jax[cuda12]" in named(_machine.machine())["GPU"].advice
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "hides it" in named(_machine.machine())["GPU"].advice


def test_devices_with_their_memory(monkeypatch):
    stats = {"bytes_limit": 2**30, "bytes_in_use": 2**20}
    gpu = types.SimpleNamespace(platform="gpu", device_kind="H9", memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "devices", lambda: [gpu, gpu])
    monkeypatch.setattr(_machine, "_has_nvidia", lambda: True)
    checks = named(_machine.machine())
    assert checks["devices (gpu)"].value == "2 x H9, 1 GiB each, 1 MiB in use"
    assert "GPU" not in checks


def test_no_device_at_all(monkeypatch):
    def devices():
        raise RuntimeError("Unable to initialize backend 'tpu'\nand more")

    monkeypatch.setattr(jax, "devices", devices)
    check = named(_machine.machine())["devices"]
    assert check.state == "change"
    assert check.value == "Unable to initialize backend 'tpu'"


def test_little_memory(monkeypatch):
    monkeypatch.setattr(_machine, "_memory_info", lambda: (2**34, 2**33))
    monkeypatch.setattr(_machine, "_limit", lambda: None)
    assert named(_machine.machine())["memory"].state == "ok"
    monkeypatch.setattr(_machine, "_limit", lambda: 2**29)
    check = named(_machine.machine())["memory"]
    assert check.state == "note"
    assert "may use 512 MiB" in check.value


# -- the cache -------------------------------------------------------------------------------------


def test_the_cache_that_treadle_chooses(cache):
    (cache / "jit_step-abc-cache").write_bytes(b"123")
    (cache / FILE).write_text(
        '{"requests": 30, "hits": 25, "saved_seconds": 7.5}\n'
        '{"requests": 10, "hits": 5, "saved_seconds": 2.5}\n'
        '{"requ'  # As a full disk leaves it.
    )
    checks = named(_cached.cached())
    assert checks["folder"].value == f"{cache} (treadle's)"
    assert checks["programs"].value == "1, 3 B"
    assert checks["hit rate"].value == (
        "75%: 30 of 40 programs, in 2 processes; 10 s of compiling saved"
    )
    assert checks["hit rate"].state == "ok"


def test_a_cache_that_mostly_misses(cache):
    (cache / FILE).write_text('{"requests": 40, "hits": 2, "saved_seconds": 0.5}\n')
    check = named(_cached.cached())["hit rate"]
    assert check.value.startswith("5%: 2 of 40 programs, in 1 process;")
    assert check.state == "note"


def test_entries_that_were_cut_off(cache):
    (cache / "jit_step-abc-cache").touch()
    check = named(_cached.cached())["cut off"]
    assert check.state == "change"
    assert "-empty -delete" in check.advice


def test_a_cache_that_cannot_be_made(cache, monkeypatch):
    (cache / "file").touch()
    monkeypatch.setenv("TREADLE_CACHE", str(cache / "file" / "folder"))
    check = named(_cached.cached())["folder"]
    assert check.state == "change"
    assert "cannot be kept" in check.advice


def test_the_cache_of_the_user(cache):
    jax.config.update("jax_compilation_cache_dir", str(cache))
    checks = named(_cached.cached())
    assert checks["folder"].value == f"{cache} (your own setting)"
    assert checks["hit rate"].value.startswith("not counted")


def test_no_cache(cache, monkeypatch):
    monkeypatch.setenv("TREADLE_CACHE", "off")
    (check,) = _cached.cached()
    assert (check.value, check.state) == ("off", "note")


COUNTED = """
import sys, jax, jax.numpy as jnp, treadle
treadle.compilation_cache(sys.argv[1])
jax.jit(lambda x: x * 2 + 1)(jnp.ones(3)).block_until_ready()
"""


def test_hits_are_counted_from_process_to_process(tmp_path):
    for _ in range(2):
        assert run_script(COUNTED, tmp_path).returncode == 0
    first, second = map(json.loads, (tmp_path / FILE).read_text().splitlines())
    assert first["hits"] == 0
    assert second["hits"] == second["requests"] == first["requests"] > 0
    hits = hits_in(tmp_path)
    assert hits is not None
    assert hits.processes == 2


def test_the_count_stays_small(tmp_path):
    file = tmp_path / FILE
    line = '{"requests": 1, "hits": 1, "saved_seconds": 0.0}'.ljust(119) + "\n"
    file.write_text(line * 1_999)
    _shorten(file)
    assert hits_in(tmp_path) == Hits(1_999, 1_999, 0.0, 1_999)
    file.write_text(line * 2_000)
    _shorten(file)
    assert hits_in(tmp_path) == Hits(1_000, 1_000, 0.0, 1_000)
    assert [each.name for each in tmp_path.iterdir()] == [FILE]


def test_pruning_keeps_the_count(tmp_path):
    (tmp_path / FILE).write_text("{}\n")
    (tmp_path / "a-cache").write_bytes(b"12345")
    _cache._prune(tmp_path, 0)
    assert [each.name for each in tmp_path.iterdir()] == [FILE]


# -- the environment -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "state", "says"),
    [
        ("JAX_DISABLE_JIT", "1", "change", "Nothing is compiled"),
        ("JAX_DISABLE_JIT", "0", "ok", ""),
        ("JAX_DEBUG_NANS", "True", "change", "waited for and checked"),
        ("JAX_ENABLE_X64", "true", "note", "float64"),
        ("JAX_PLATFORMS", "cpu", "ok", ""),
        ("JAX_COORDINATOR_ADDRESS", "localhost:1", "ok", ""),
        ("JAX_COMPILATION_CACHE", "/x", "note", "Did you mean JAX_COMPILATION_CACHE_DIR?"),
        ("JAX_FLURB", "1", "note", "has no option of this name."),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=8", "note", "poses as several"),
        ("XLA_FLAGS", "--xla_backend_optimization_level=0", "change", "does not optimise"),
        ("XLA_FLAGS", "--xla_gpu_autotune_level=4", "ok", ""),
        ("XLA_PYTHON_CLIENT_ALLOCATOR", "platform", "change", "slow"),
        ("XLA_PYTHON_CLIENT_PREALLOCATE", "false", "ok", ""),
        ("XLA_PYTHON_CLIENT_PREALLOCATE", "no", "change", "only `false`, `False` and `0`"),
        ("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5", "ok", ""),
        ("XLA_PYTHON_CLIENT_MEM_FRACTION", "75", "change", "between 0 and 1"),
        ("XLA_CLIENT_MEM_FRACTION", "75%", "change", "Not a number"),
        ("EQX_ON_ERROR", "nan", "note", "passes over"),
        ("JAXTYPING_DISABLE", "1", "note", "not checked"),
    ],
)
def test_variables(monkeypatch, name, value, state, says):
    monkeypatch.setenv(name, value)
    check = named(_variables.variables())[name]
    assert (check.value, check.state) == (value, state)
    assert says in check.advice
    assert bool(says) == bool(check.advice)


def test_no_variables(monkeypatch):
    monkeypatch.delenv("TREADLE_CACHE")
    (check,) = _variables.variables()
    assert check.value.startswith("none")
