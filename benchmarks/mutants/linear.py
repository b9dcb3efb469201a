"""`check_linear`: what is done to gradients."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp

from treadle.testing import arrays, batches_like, check_linear, pytrees

from ._subject import Subject
from ._trees import is_float, is_integer, on

_LEAVES = arrays(
    ["float32", "float32", "bfloat16", "int32"], shape=st.sampled_from([(1,), (2,), (2, 2), (3, 1)])
)


@st.composite
def _pairs(draw: Any, leaves: Any = _LEAVES) -> tuple[Any, Any]:
    spec = draw(pytrees(leaves, max_leaves=6))
    numbers = batches_like(spec, floats=(-8.0, 8.0), integers=(-8, 8), kind="jax")
    return draw(numbers), draw(numbers)


def _sums(tree: Any) -> Any:
    """Each leaf with the sum of all added."""
    total = _total(tree)
    return on(is_float, lambda x: x.astype("float32") + total)(tree)


def _total(tree: Any) -> Any:
    return sum(jnp.sum(x.astype("float32")) for x in jax.tree.leaves(tree) if is_float(x))


def _norm(tree: Any) -> Any:
    squares = on(is_float, lambda x: x.astype("float32") ** 2)(tree)
    return jnp.sqrt(_total(squares))


def _clipped(tree: Any) -> Any:
    """By the norm of all."""
    scale = jnp.minimum(1.0, 1.0 / (_norm(tree) + 1e-6))
    return on(is_float, lambda x: x * scale.astype(x.dtype))(tree)


def _first_of_floats(tree: Any, function: Callable[[Any], Any]) -> Any:
    """On one leaf only, the last."""
    leaves, structure = jax.tree.flatten(tree)
    found = [at for at, leaf in enumerate(leaves) if is_float(leaf)]
    for at in found[-1:]:
        leaves[at] = function(leaves[at])
    return jax.tree.unflatten(structure, leaves)


def _in_last(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda tree: _first_of_floats(tree, function)


def _broken(
    name: str, f: Callable[[Any], Any], strategy: Any = None, **tolerances: float
) -> Subject:
    return Subject(
        "check_linear",
        name,
        _pairs() if strategy is None else strategy,
        lambda pair: check_linear(f, *pair, **tolerances),
    )


_FLOATS_OR_INTEGERS = lambda leaf: is_float(leaf) or is_integer(leaf)

SUBJECTS = (
    _broken("transposed", on(is_float, jnp.transpose))._replace(right=True),
    _broken("reversed and negated", on(is_float, lambda x: -x[::-1]))._replace(right=True),
    _broken(
        "the sum of all added to each",
        _sums,
        _pairs(arrays("float32", shape=(2,))),
        rtol=1e-5,
        atol=1e-4,
    )._replace(right=True),
    _broken("one is added to one leaf", _in_last(lambda x: x + 1)),
    _broken("the absolute value of one leaf", _in_last(jnp.abs)),
    _broken("one leaf is squared", _in_last(lambda x: x * x)),
    _broken("clipped by the norm of all", _clipped, rtol=1e-5, atol=1e-5),
    _broken("clipped by value", on(is_float, lambda x: jnp.clip(x, -4, 4))),
    _broken("the maximum in place of the mean", on(is_float, lambda x: x.max(0, keepdims=True))),
    _broken(
        "small numbers are set to 0",
        on(is_float, lambda x: jnp.where(jnp.abs(x) < 1, 0, x).astype(x.dtype)),
    ),
    _broken("sorted", on(is_float, lambda x: jnp.sort(x, axis=0))),
    _broken("rounded", on(is_float, jnp.round)),
    _broken("zeros become None", on(is_float, lambda x: x if x.any() else None)),
    _broken(
        "which is the largest is told in an integer",
        _in_last(lambda x: {"values": x, "largest": jnp.argmax(x)}),
    ),
)
