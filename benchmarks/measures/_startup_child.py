"""The fresh process of `startup`. Nothing is imported up here that would be measured below."""

import importlib
import time


def import_time(modules: list[str]) -> float:
    """Seconds to import them, in a process that has imported nothing yet."""
    start = time.perf_counter()
    for module in modules:
        importlib.import_module(module)
    return time.perf_counter() - start


def first_step_time(name: str, config: str) -> float:
    """Seconds from the imports' end to the end of the first step."""
    from .._configs import CONFIGS
    from ..contenders import CONTENDERS

    contender = CONTENDERS[name]
    importlib.import_module(f"benchmarks.contenders.{contender.module}")
    start = time.perf_counter()
    contender.build(CONFIGS[config]).run(1)
    return time.perf_counter() - start
