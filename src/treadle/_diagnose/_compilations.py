"""Counting the programs that XLA compiles, also where JAX traced nothing."""

import functools

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.count += event == _EVENT


@functools.cache
def compilation_counter() -> _Counter:
    """The process's counter; its `count` grows with every program compiled or read from a cache."""
    counter = _Counter()
    jax.monitoring.register_event_duration_secs_listener(counter)
    return counter
