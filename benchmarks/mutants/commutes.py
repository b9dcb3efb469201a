"""`check_commutes`: pairs of clean-ups of a model, in either order."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from treadle.testing import arrays, check_commutes, keys, pytrees
from treadle.tree import cast

from ._subject import Subject
from ._trees import is_array, is_float, is_key, nodes, on

_TREES = pytrees(dtype="float")
_NUMBERS = pytrees(arrays("float32", min_value=-8, max_value=8))
Tree = Callable[[Any], Any]


def _broken(name: str, f: Tree, g: Tree, strategy: Any = _NUMBERS) -> Subject:
    return Subject("check_commutes", name, strategy, lambda tree: check_commutes(f, g, tree))


def _is_vector(leaf: Any) -> bool:
    return is_float(leaf) and leaf.ndim == 1


_transposed = on(is_array, jnp.transpose)
_doubled = on(is_float, lambda x: x * 2)

SUBJECTS = (
    _broken("cast, and transpose", lambda t: cast(t, jnp.bfloat16), _transposed, _TREES)._replace(
        right=True
    ),
    _broken("double, and negate", _doubled, on(is_float, jnp.negative), _TREES)._replace(
        right=True
    ),
    _broken(
        "lists to tuples, and names to the same",
        nodes(list, tuple),
        nodes(dict, dict),
        pytrees(),
    )._replace(right=True),
    _broken("clip, and double", on(is_float, lambda x: jnp.clip(x, -1, 1)), _doubled),
    _broken("round, and halve", on(is_float, jnp.round), on(is_float, lambda x: x / 2)),
    _broken("add one, and double", on(is_float, lambda x: x + 1), _doubled),
    _broken("sort, and negate", on(_is_vector, jnp.sort), on(is_float, jnp.negative)),
    _broken(
        "cast to float16, and multiply by 3",
        lambda t: cast(t, jnp.float16),
        on(is_float, lambda x: (x.astype("float32") * 3.3).astype(x.dtype)),
    ),
    _broken(
        "transpose, and scale the first row",
        _transposed,
        on(lambda x: is_float(x) and x.ndim == 2, lambda x: x.at[:1].multiply(2)),
    ),
    _broken("add an axis, and transpose", on(is_array, lambda x: x[None]), _transposed),
    _broken(
        "drop the first of a list, and reverse lists",
        nodes(list, lambda items: items[1:]),
        nodes(list, lambda items: items[::-1]),
        pytrees(modules=False),
    ),
    _broken(
        "fold a key, and split it",
        on(is_key, lambda key: jax.random.fold_in(key, 1)),
        on(is_key, lambda key: jax.random.split(key)[0]),
        pytrees(keys()),
    ),
    _broken(
        "count from one, and double what counts",
        on(lambda x: type(x) is int, lambda n: n + 1),
        on(lambda x: type(x) is int, lambda n: 2 * n),
        pytrees(),
    ),
)
