"""`check_vmap`: what is done to each example of a batch."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from treadle.testing import arrays, batches_like, check_vmap, keys, pytrees

from ._outside import Make, counting, drawing, of
from ._subject import Subject
from ._trees import is_array, on

_BATCHES = arrays(
    "float32", shape=st.sampled_from([(2, 3), (3, 3), (3, 2)]), min_value=-8, max_value=8
)


def _ruled(function: Callable[[Any], Any], rule: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function with a rule of its own for a batch."""
    ruled = custom_vmap(function)

    @ruled.def_vmap
    def batched(axis_size: int, in_batched: list[bool], x: Any) -> tuple[Any, bool]:
        return rule(x), True

    return ruled


def _called_back(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """On the host, with the whole batch at once."""

    def f(x: Any) -> Any:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(function, shape, x, vmap_method="expand_dims")

    return f


def _remembering() -> Callable[[Any], Any]:
    mean: list[Any] = []

    def f(x: Any) -> Any:
        if not mean:
            mean.append(jnp.mean(x))
        return x - mean[0]

    return f


def _of_unit_size(x: Any) -> Any:
    return x / jnp.maximum(jnp.max(jnp.abs(x)), 1)


def _compact(x: Any) -> Any:
    return {"values": jnp.sort(x), "count": int(jnp.sum(x > 0))}


def _broken(name: str, make: Make, strategy: Any = _BATCHES) -> Subject:
    return Subject("check_vmap", name, strategy, lambda batch: check_vmap(make(), batch))


def _softplus_rows(x: np.ndarray) -> np.ndarray:
    return np.asarray(x) - np.max(x)


@st.composite
def _stacked(draw: Any) -> Any:
    spec = draw(
        pytrees(
            arrays(["float32", "bfloat16", "int8"], shape=st.sampled_from([(2,), (2, 3)])),
            max_leaves=4,
        ).filter(jax.tree.leaves)
    )
    return draw(batches_like(spec, size=st.integers(1, 3), kind="jax"))


SUBJECTS = (
    _broken(
        "reversed and doubled",
        of(on(is_array, lambda x: x[::-1] * 2 if x.ndim else x)),
        _stacked(),
    )._replace(right=True),
    _broken(
        "sorted, with the index of the largest", of(lambda x: (jnp.sort(x), jnp.argmax(x)))
    )._replace(right=True),
    _broken(
        "a draw from a key of its own",
        of(lambda key: jax.random.bits(key, (2,))),
        keys(shape=(3,), impl="threefry2x32"),
    )._replace(right=True),
    _broken("on the host, by the last axis", of(_called_back(lambda x: np.flip(x, -1))))._replace(
        right=True
    ),
    _broken(
        "a rule that takes the mean of the batch",
        of(_ruled(lambda x: x - jnp.max(x), lambda x: x - jnp.max(x))),
    ),
    _broken("a rule that reverses the batch", of(_ruled(jnp.flip, jnp.flip))),
    _broken(
        "a rule for the axis before",
        of(_ruled(lambda x: jnp.cumsum(x), lambda x: jnp.cumsum(x, 0))),
    ),
    _broken("on the host, by the first axis", of(_called_back(lambda x: np.flip(x, 0)))),
    _broken("on the host, over all", of(_called_back(_softplus_rows))),
    _broken("counts its calls", counting),
    _broken("one draw for the whole batch", drawing),
    _broken("remembers the mean of the first", _remembering),
    _broken("branches on a number", of(lambda x: x / 2 if jnp.max(x) > 1 else x)),
    _broken("tells a count as a Python number", of(_compact)),
    _broken(
        "the type under vmap is wider",
        of(lambda x: x.astype("float32") if isinstance(x, jax.core.Tracer) else x),
        arrays("bfloat16", shape=(2, 3)),
    ),
)
