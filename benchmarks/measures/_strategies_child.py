"""The process of `strategies`: draws many of each, and does nothing with them."""

import time
from typing import Any

import jax.numpy as jnp
from hypothesis import HealthCheck, Phase, given, settings

from treadle import testing

_STRATEGIES = {
    "arrays": testing.arrays(special=True),
    "keys": testing.keys(),
    "pytrees": testing.pytrees(),
    "modules": testing.modules(),
    "modules, floats only": testing.modules(floats_only=True),
    "modules, special numbers": testing.modules(special=True),
    "optimizers": testing.optimizers(),
    "batches_like": testing.batches_like((jnp.ones((4, 3)), jnp.ones(4, int))),
    "train_states": testing.train_states(),
}


def rates(count: int) -> dict[str, float]:
    """Examples a second of each strategy.

    Args:
        count: How many are drawn, after as many that nobody times: layers are traced once.
    """
    return {name: _rate(strategy, count) for name, strategy in _STRATEGIES.items()}


def _rate(strategy: Any, count: int) -> float:
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(example: Any) -> None:
        nonlocal drawn
        drawn += 1

    drawn = 0
    draw()
    drawn, start = 0, time.perf_counter()
    draw()
    return drawn / (time.perf_counter() - start)
