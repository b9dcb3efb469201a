"""The fresh process of `gc`: one way of looping, every step timed."""

import gc
import time
from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np

from .. import _configs
from .._configs import DEEP
from ..contenders import CONTENDERS, Run

WARM_UP = 20


class Collector:
    """Adds up the seconds that the collector takes."""

    def __init__(self):
        self.seconds, self.full, self._start = 0.0, 0, 0.0

    def __call__(self, phase: str, info: dict) -> None:
        if phase == "start":
            self._start = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._start
            self.full += info["generation"] == 2


def step_times(name: str, collecting: bool, steps: int) -> dict:
    """Quantiles of the time from the end of one step's call to the end of the next.

    Nothing waits for the device in between: a loop that runs ahead of it is as long in the end.
    """
    run = CONTENDERS[name].build(DEEP)
    run.run(WARM_UP)
    collector = Collector()
    gc.callbacks.append(collector)
    try:
        if not collecting:
            gc.disable()
        times = _TIMED[name](run, steps)
    finally:
        gc.enable()
        gc.callbacks.remove(collector)
    milliseconds = 1e3 * np.diff(times)
    return {
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
        "max_ms": float(milliseconds.max()),
        "collector_percent": 1e2 * collector.seconds / (times[-1] - times[0]),
        "collections": collector.full,
        "loss": run.loss(),
    }


def _floor(run: Run, steps: int) -> list[float]:
    leaves, program, times = run.leaves, run.program, []
    for inputs, labels in _configs.stream(run.batches, steps):
        leaves, _metrics = program(leaves, inputs, labels)
        times.append(time.perf_counter())
    run.leaves = jax.block_until_ready(leaves)
    return times


def _equinox(run: Run, steps: int) -> list[float]:
    model, opt_state, key, step, times = run.model, run.opt_state, run.key, run.step, []
    for inputs, labels in _configs.stream(run.batches, steps):
        model, opt_state, key, _loss, _accuracy = step(model, opt_state, key, inputs, labels)
        times.append(time.perf_counter())
    jax.block_until_ready(eqx.filter((model, opt_state), eqx.is_array))
    run.model, run.opt_state, run.key = model, opt_state, key
    return times


def _step(run: Run, steps: int) -> list[float]:
    state, step, times = run.state, run.step, []
    for batch in _configs.stream(run.batches, steps):
        state, _metrics = step(state, batch)
        times.append(time.perf_counter())
    run.state = jax.block_until_ready(state)
    return times


def _fit(run: Run, steps: int) -> list[float]:
    from ..contenders.treadle_fit import StepTimes

    watch = StepTimes()
    run.run(steps, callbacks=[watch])
    return watch.times


_TIMED: dict[str, Callable[[Run, int], list[float]]] = {
    "floor": _floor,
    "equinox": _equinox,
    "treadle-step": _step,
    "treadle-fit": _fit,
}
