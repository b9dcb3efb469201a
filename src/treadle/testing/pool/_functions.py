"""Functions that stand in drawn trees, as leaves and in static fields."""

import functools
from typing import Any

import jax
from jaxtyping import PyTree


def halved(x: Any) -> Any:
    """Half of `x`."""
    return x / 2


leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
"""A `functools.partial` of an activation."""


def first(pair: Any) -> Any:
    """The first of a sequence."""
    return pair[0]


def last(pair: Any) -> Any:
    """The last of a sequence."""
    return pair[-1]


def matrices(params: PyTree) -> PyTree[bool]:
    """A mask for `optax.masked`: whether a leaf has two axes at least."""
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)
