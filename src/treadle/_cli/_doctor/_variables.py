"""The environment variables that change what JAX, Equinox and treadle do."""

import difflib
import os
from collections.abc import Callable, Iterator

import jax

from ._check import Check, State

GROUP = "environment"

_Judged = tuple[State, str]

_PLAIN = (
    "CUDA_VISIBLE_DEVICES",
    "EQX_ON_ERROR",
    "JAXTYPING_DISABLE",
    "JAX_TRACEBACK_FILTERING",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "TF_CPP_MIN_LOG_LEVEL",
    "TREADLE_CACHE",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
)

_NO_OPTIONS = frozenset(
    {
        "JAX_COORDINATOR_ADDRESS",
        "JAX_COORDINATOR_BIND_ADDRESS",
        "JAX_LOCAL_DEVICE_IDS",
        "JAX_NUM_PROCESSES",
        "JAX_PROCESS_ID",
    }
)
"""Read by JAX, though no option of `jax.config`."""


def variables() -> Iterator[Check]:
    """Those that are set, and what to change."""
    names = sorted(name for name in os.environ if name in _PLAIN or name.startswith("JAX_"))
    if not names:
        yield Check(GROUP, "variables", "none that JAX, Equinox or treadle read")
    for name in names:
        value = os.environ[name]
        state, advice = _judged(name, value)
        yield Check(GROUP, name, value, state, advice)


def _judged(name: str, value: str) -> _Judged:
    judge = _JUDGES.get(name)
    if judge is not None:
        return judge(value)
    known = name in _PLAIN or name in _NO_OPTIONS or hasattr(jax.config, name.lower())
    if known:
        return "ok", ""
    options = [each.upper() for each in dir(jax.config) if each.startswith("jax_")]
    near = difflib.get_close_matches(name, [*options, *_NO_OPTIONS], 1, 0.7)
    hint = f" Did you mean {near[0]}?" if near else ""
    return "note", f"JAX {jax.__version__} has no option of this name.{hint}"


def _switch(state: State, advice: str) -> Callable[[str], _Judged]:
    """What is wrong where it is on."""

    def judge(value: str) -> _Judged:
        on = value.strip().lower() in ("1", "true", "t", "yes", "y", "on")
        return (state, advice) if on else ("ok", "")

    return judge


def _flags(value: str) -> _Judged:
    if "xla_force_host_platform_device_count" in value:
        return "note", (
            "The CPU poses as several devices, which share its cores: for tests of sharding, not "
            "for speed."
        )
    if "xla_dump_to" in value:
        return "note", "XLA writes every program it compiles to a folder, which takes time."
    if "xla_backend_optimization_level=0" in value or "disable_most_optimizations" in value:
        return "change", "XLA does not optimise: everything is slow. Take the flag out."
    return "ok", ""


def _allocator(value: str) -> _Judged:
    if value == "platform":
        return "change", (
            "Every array is allocated by the driver, which is slow: take it out, or set "
            "XLA_PYTHON_CLIENT_PREALLOCATE=false to leave memory to others."
        )
    return "ok", ""


def _preallocate(value: str) -> _Judged:
    # jaxlib compares with these spellings; any other leaves it on.
    if value in ("false", "False", "0", "true", "True", "1"):
        return "ok", ""
    return "change", (
        "Memory is allocated ahead all the same: only `false`, `False` and `0` switch that off."
    )


def _fraction(value: str) -> _Judged:
    try:
        fraction = float(value)
    except ValueError:
        return "change", "Not a number: it is a fraction of a GPU's memory, as 0.75 is."
    if 0 < fraction <= 1:
        return "ok", ""
    return "change", "A fraction of a GPU's memory lies between 0 and 1: 0.75 for three quarters."


def _on_error(value: str) -> _Judged:
    if value in ("breakpoint", "nan"):
        return "note", (
            "`eqx.error_if` stops at, or passes over, what went wrong: for looking into a bug."
        )
    return "ok", ""


def _jaxtyping(value: str) -> _Judged:
    if value.strip().lower() in ("1", "true"):
        return "note", "Shapes in signatures are not checked: mistakes are found later, or never."
    return "ok", ""


_JUDGES: dict[str, Callable[[str], _Judged]] = {
    "EQX_ON_ERROR": _on_error,
    "JAXTYPING_DISABLE": _jaxtyping,
    "JAX_CHECK_TRACER_LEAKS": _switch(
        "note", "Nothing traced is cached, so everything is traced again and again: for one test."
    ),
    "JAX_DEBUG_INFS": _switch("note", "Every program is waited for and checked: slow."),
    "JAX_DEBUG_KEY_REUSE": _switch(
        "note", "Each call is checked, typed keys only. `treadle.audit` checks once, raw keys too."
    ),
    "JAX_DEBUG_NANS": _switch(
        "change",
        "Every program is waited for and checked, and nothing is donated: slow. A `TrainStep` "
        "checks inside the program, `nonfinite='raise'`.",
    ),
    "JAX_DISABLE_JIT": _switch(
        "change", "Nothing is compiled: every operation runs alone, from Python. Take it out."
    ),
    "JAX_ENABLE_X64": _switch(
        "note",
        "What has no dtype of its own becomes float64: twice the memory, and no tensor cores. "
        "`treadle.audit` tells where (`float64`).",
    ),
    "JAX_LOG_COMPILES": _switch(
        "note", "Every compilation is logged. `step.compilations` has those of a step."
    ),
    "XLA_CLIENT_MEM_FRACTION": _fraction,
    "XLA_FLAGS": _flags,
    "XLA_PYTHON_CLIENT_ALLOCATOR": _allocator,
    "XLA_PYTHON_CLIENT_MEM_FRACTION": _fraction,
    "XLA_PYTHON_CLIENT_PREALLOCATE": _preallocate,
}
