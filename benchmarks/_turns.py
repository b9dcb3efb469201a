"""The child's side of the races: contenders that are built once and run when it is their turn."""

import math
import time

from ._configs import CONFIGS
from .contenders import CONTENDERS, Run

_running: dict[tuple[str, str], Run] = {}

CHECKED_STEPS = 50


def build(name: str, config: str) -> dict:
    """Builds a contender, and reads its loss before and after its first steps."""
    start = time.perf_counter()
    run = _running[name, config] = CONTENDERS[name].build(CONFIGS[config])
    before = run.loss()
    run.run(CHECKED_STEPS)
    return {
        "loss_before": before,
        "loss_after": run.loss(),
        "seconds_to_build": time.perf_counter() - start,
    }


def calibrate(name: str, config: str, seconds: float) -> int:
    """How many steps take about that long."""
    multiple = CONTENDERS[name].multiple
    steps = multiple * math.ceil(CHECKED_STEPS / multiple)
    while True:
        taken = run(name, config, steps)
        if taken >= seconds / 4:
            return multiple * max(1, round(steps * seconds / taken / multiple))
        steps *= 2 if taken > seconds / 16 else 4


def run(name: str, config: str, steps: int) -> float:
    """Runs it that many steps further; returns the seconds taken."""
    contender = _running[name, config]
    start = time.perf_counter()
    contender.run(steps)
    return time.perf_counter() - start
