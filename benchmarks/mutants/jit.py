"""`check_jit`: steps over a state of a few arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from treadle.testing import arrays, check_jit, keys, pytrees

from ._outside import Make, counting, drawing, of
from ._subject import Subject
from ._trees import is_array, is_float, on

_TREES = pytrees(max_leaves=4)
_NUMBERS = arrays("float32", shape=(3,), min_value=-8, max_value=8)


def _drawing_on_the_host() -> Callable[[Any], Any]:
    draws = np.random.default_rng(0)
    return lambda x: x + draws.normal(size=x.shape).astype("float32")


def _remembering() -> Callable[[Any], Any]:
    """Scales all by what the first had."""
    scale: list[Any] = []

    def f(x: Any) -> Any:
        if not scale:
            scale.append(1 + jnp.max(jnp.abs(x)))
        return x / scale[0]

    return f


def _otherwise_when_traced(x: Any) -> Any:
    """Checks and mends, where it can see the numbers."""
    if isinstance(x, jax.core.Tracer):
        return x
    return jnp.clip(x, -1, 1)


def _branching(x: Any) -> Any:
    return x / 2 if jnp.max(x) > 1 else x


def _compact(x: Any) -> Any:
    return x[x != 0]


def _cut(x: Any) -> Any:
    return x[: jnp.sum(x > 0)]


def _on_the_host(x: Any) -> Any:
    return jnp.asarray(np.sort(x))


def _weakened(x: Any) -> Any:
    return jnp.where(x.sum() > 0, 1.0, 0.0) if x.ndim == 0 else x


def _step(state: tuple[Any, int]) -> tuple[Any, int]:
    """Counts in a Python number, which is static."""
    x, count = state
    return x / 2, count + 1


def _averaged(state: dict[str, Any]) -> dict[str, Any]:
    """The mean starts as an array, and goes on as a Python number's."""
    return {"mean": jnp.where(state["count"] > 0, 0.5, 1.0), "count": state["count"] + 1}


def _broken(name: str, make: Make, strategy: Any = _NUMBERS) -> Subject:
    return Subject("check_jit", name, strategy, lambda tree: check_jit(make(), tree))


_STATES = arrays("float32", shape=(2,)).map(lambda x: {"mean": x[0], "count": jnp.int32(0)})

SUBJECTS = (
    _broken(
        "leaves moved and reshaped", of(on(is_array, lambda x: x.T.reshape(-1))), _TREES
    )._replace(right=True),
    _broken(
        "doubled, NaN and all",
        of(on(is_float, lambda x: x * 2)),
        pytrees(dtype=["float32", "bfloat16", "float16"], special=True, max_leaves=4),
    )._replace(right=True),
    _broken(
        "a key split, and one half handed on",
        of(lambda key: jax.random.split(key)[0]),
        keys(impl="threefry2x32"),
    )._replace(right=True),
    _broken("counts its calls outside of its arguments", counting),
    _broken("keeps its key outside of its arguments", drawing),
    _broken("draws on the host", _drawing_on_the_host),
    _broken("remembers the scale of the first it saw", _remembering),
    _broken("clips only where it is not traced", of(_otherwise_when_traced)),
    _broken("branches on a number", of(_branching)),
    _broken("leaves out zeros, however many", of(_compact)),
    _broken("cuts by a number", of(_cut)),
    _broken("sorts on the host", of(_on_the_host)),
    _broken("a state becomes weak", of(_averaged), _STATES),
    _broken("a scalar becomes weak", of(_weakened), arrays("float32")),
    _broken("counts in a Python number", of(_step), _NUMBERS.map(lambda x: (x, 0))),
)
