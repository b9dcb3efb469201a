"""Functions that keep something between calls, which no transformation of JAX's may see."""

import itertools
from collections.abc import Callable
from typing import Any

import jax

Make = Callable[[], Callable[..., Any]]
"""Makes the function anew for each example: what one keeps is not there for the next."""


def of(f: Callable[..., Any]) -> Make:
    """Of a function that keeps nothing."""
    return lambda: f


def counting() -> Callable[[Any], Any]:
    """Scales by how often it was called."""
    calls = itertools.count(1)
    return lambda x: x * next(calls)


def drawing() -> Callable[[Any], Any]:
    """Draws with a key that stays outside, and goes on."""
    key = jax.random.key(0)

    def f(x: Any) -> Any:
        nonlocal key
        key, now = jax.random.split(key)
        return x + jax.random.normal(now, x.shape)

    return f
