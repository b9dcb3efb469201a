"""`check_idempotent`: casts, clips and clean-ups."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from treadle.testing import arrays, check_idempotent, keys, modules, pool, pytrees
from treadle.tree import cast

from ._subject import Subject
from ._trees import is_float, is_integer, is_key, nodes, on

_TREES = pytrees(special=True)


def _other_width(leaf: Any) -> Any:
    wide, narrow = jnp.float32, jnp.bfloat16
    return leaf.astype(narrow if leaf.dtype == wide else wide)


def _cleaned_up(leaf: Any) -> Any:
    """Zeros become ones, and NaNs zeros: in the wrong order."""
    leaf = jnp.where(leaf == 0, 1, leaf).astype(leaf.dtype)
    return jnp.where(jnp.isnan(leaf), 0, leaf).astype(leaf.dtype)


def _of_unit_length(leaf: Any) -> Any:
    return leaf / (jnp.sqrt(jnp.sum(leaf * leaf)) + 0.001)


def _projected(leaf: Any) -> Any:
    """Into the ball of radius 1."""
    length = jnp.sqrt(jnp.sum(leaf * leaf))
    return jnp.where(length > 1, leaf / length, leaf)


def _broken(name: str, f: Callable[[Any], Any], strategy: Any = _TREES) -> Subject:
    return Subject("check_idempotent", name, strategy, lambda tree: check_idempotent(f, tree))


_NUMBERS = arrays("float32", min_value=-8, max_value=8)

SUBJECTS = (
    _broken("cast to bfloat16", lambda tree: cast(tree, jnp.bfloat16))._replace(right=True),
    _broken("clip", on(is_float, lambda x: jnp.clip(x, -1, 1)))._replace(right=True),
    Subject(
        "check_idempotent",
        "project into a ball, within a tolerance",
        _NUMBERS,
        lambda x: check_idempotent(_projected, x, rtol=1e-6),
        right=True,
    ),
    _broken("casts to the other of two widths", on(is_float, _other_width)),
    _broken(
        "what is beyond 1 is halved instead of clipped",
        on(is_float, lambda x: jnp.where(jnp.abs(x) > 1, x / 2, x)),
    ),
    _broken("zeros become ones before NaNs become zeros", on(is_float, _cleaned_up)),
    _broken("the sign of zeros is turned", on(is_float, lambda x: jnp.where(x == 0, -x, x))),
    _broken("an epsilon in the norm", _of_unit_length, _NUMBERS),
    _broken(
        "integers are scaled with the floats",
        on(
            lambda leaf: is_float(leaf) or is_integer(leaf),
            lambda x: jnp.clip(x, -1, 1) if is_float(x) else x * 2,
        ),
    ),
    _broken(
        "keys are folded again each time",
        on(is_key, lambda key: jax.random.fold_in(key, 0) if key.ndim == 0 else key),
        pytrees(keys()),
    ),
    _broken("wraps what is wrapped already", pool.Frozen, modules()),
    _broken(
        "the last of each list is dropped",
        nodes(list, lambda items: items[:-1]),
        pytrees(modules=False),
    ),
    _broken(
        "a word is appended to a static field",
        nodes(pool.Labelled, lambda n: pool.Labelled(n.value, n.label + "*", n.sizes, n.function)),
    ),
)
