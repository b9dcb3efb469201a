"""`no-compilation-cache`: about JAX's configuration, not about a step; so it has no corpus."""

import contextlib

import jax
import pytest

import treadle


@contextlib.contextmanager
def configured(**options):
    before = {name: getattr(jax.config, name) for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def finding():
    report = treadle.audit(jax.jit(lambda x: x + 1), 1.0)
    assert report.ok
    found = [each for each in report.findings if each.rule == "no-compilation-cache"]
    return report, found


@pytest.mark.parametrize(
    "options",
    [
        {"jax_compilation_cache_dir": None},
        {"jax_compilation_cache_dir": "x", "jax_enable_compilation_cache": False},
    ],
    ids=["no folder", "off"],
)
def test_off_is_a_remark(options, tmp_path):
    if options["jax_compilation_cache_dir"]:
        options = {**options, "jax_compilation_cache_dir": str(tmp_path)}
    with configured(**options):
        report, (found,) = finding()
    assert (found.severity, found.where) == ("info", None)
    assert "compiles anew, which took " in found.message
    assert {tick.name: tick.ticked for tick in report.checklist}["cache"] is False


def test_on_is_told_with_its_folder(tmp_path):
    with configured(
        jax_compilation_cache_dir=str(tmp_path), jax_persistent_cache_min_compile_time_secs=0.5
    ):
        report, found = finding()
    assert found == []
    tick = next(tick for tick in report.checklist if tick.name == "cache")
    assert tick.evidence == f"{tmp_path}, for what took 0.5 s to compile"
