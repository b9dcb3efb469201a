"""`check_monoid`: merging what was counted on parts of the data."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from treadle.testing import arrays, batches_like, check_monoid

from ._subject import Subject

_ZEROS = np.zeros(2, np.float32)


def _counted(count: tuple[int, int] = (0, 5)) -> st.SearchStrategy[tuple[Any, ...]]:
    """Three times a sum or a mean, and a count; whole numbers, which are added exactly."""
    one = st.fixed_dictionaries(
        {
            "value": arrays("int32", shape=(2,), min_value=-9, max_value=9).map(
                lambda x: x.astype("float32")
            ),
            "count": st.integers(*count).map(lambda n: jnp.array(n, "float32")),
        }
    )
    return st.tuples(one, one, one)


def _sum(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _weighted_mean(a: Any, b: Any) -> Any:
    count = a["count"] + b["count"]
    value = (a["value"] * a["count"] + b["value"] * b["count"]) / count
    return {"value": value, "count": count}


def _mean_of_means(a: Any, b: Any) -> Any:
    return {"value": (a["value"] + b["value"]) / 2, "count": a["count"] + b["count"]}


def _weighted_by_one(a: Any, b: Any) -> Any:
    """The second is taken for a single number."""
    count = a["count"] + b["count"]
    value = a["value"] + (b["value"] - a["value"]) / jnp.maximum(count, 1)
    return {"value": value, "count": count}


def _maximum(a: Any, b: Any) -> Any:
    return jnp.maximum(a, b)


def _greater(a: Any, b: Any) -> Any:
    """Without a thought of NaN."""
    return jnp.where(a > b, a, b)


def _saturating(a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.clip(x + y, -10, 10), a, b)


def _moving(a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: 0.5 * x + 0.5 * y, a, b)


def _in_half(a: Any, b: Any) -> Any:
    return jax.tree.map(
        lambda x, y: (x.astype("float16") + y.astype("float16") / 256).astype(x.dtype), a, b
    )


def _added_in_place(a: Any, b: Any) -> Any:
    a["sum"] += b["sum"]
    return a


def _union(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in {**a, **b}}


def _keys_of_the_first(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {name: count + b.get(name, 0) for name, count in a.items()}


def _last_wins(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {**a, **b}


def _without_zeros(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    """Clears away what is 0, which `b` may have been missing from."""
    return {name: count for name, count in _union(a, b).items() if count}


def _broken(
    name: str, merge: Callable[[Any, Any], Any], strategy: Any = None, **options: Any
) -> Subject:
    def check(elements: tuple[Any, ...]) -> None:
        check_monoid(merge, elements, **options)

    return Subject("check_monoid", name, _counted() if strategy is None else strategy, check)


_DICTS = st.tuples(*[st.dictionaries(st.sampled_from("abc"), st.integers(-3, 3), max_size=3)] * 3)
_SPECIAL = st.tuples(*[arrays("float32", shape=(2,), special=True)] * 3)
_HOST = st.tuples(*[batches_like({"sum": _ZEROS}, floats=(-8.0, 8.0))] * 3)
_NEUTRAL = {"value": jnp.zeros(2), "count": jnp.float32(0)}

SUBJECTS = (
    _broken("sums and counts", _sum, identity=_NEUTRAL, commutative=True)._replace(right=True),
    _broken(
        "weighted means, within a tolerance",
        _weighted_mean,
        _counted((1, 5)),
        commutative=True,
        rtol=1e-5,
        atol=1e-5,
    )._replace(right=True),
    _broken("the maximum, of NaN too", _maximum, _SPECIAL, rtol=1e-6)._replace(right=True),
    _broken("counts by name", _union, _DICTS, identity={}, commutative=True)._replace(right=True),
    _broken("the mean of means", _mean_of_means, _counted((1, 5)), rtol=1e-5, atol=1e-5),
    _broken(
        "the second is weighted as one example",
        _weighted_by_one,
        _counted((1, 5)),
        rtol=1e-5,
        atol=1e-5,
    ),
    _broken("differences", lambda a, b: jax.tree.map(jnp.subtract, a, b)),
    _broken("a moving average", _moving),
    _broken("sums that stop at a bound", _saturating),
    _broken("the greater one loses NaN", _greater, _SPECIAL),
    _broken(
        "the maximum starts from 0",
        _maximum,
        st.tuples(*[arrays("float32", shape=(2,))] * 3),
        identity=jnp.zeros(2),
    ),
    _broken("adds to the first in place", _added_in_place, _HOST),
    _broken("names that the first lacks are lost", _keys_of_the_first, _DICTS),
    _broken("the last one wins, whatever the order", _last_wins, _DICTS, commutative=True),
    _broken("what is 0 is cleared away", _without_zeros, _DICTS, identity={}),
    _broken(
        "the neutral element has counted one", _sum, identity={**_NEUTRAL, "count": jnp.float32(1)}
    ),
)
