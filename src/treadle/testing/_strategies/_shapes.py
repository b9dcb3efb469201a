"""Small shapes: simplest first, empty ones last."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np

from ..._errors import ArgumentTypeError, ArgumentValueError
from ._draw import Draw

_SIDES = (1, 2, 3, 5)
_LARGEST = 24
_AXES = (0, 1, 1, 2, 2, 3, 4)


@functools.cache
def _of_axes(axes: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of so many axes; an eighth of them have no elements."""
    every = itertools.product(_SIDES, repeat=axes)
    full = sorted((shape for shape in every if math.prod(shape) <= _LARGEST), key=_simplicity)
    empty = [(*shape[:at], 0, *shape[at + 1 :]) for shape in full for at in range(axes)]
    empty = sorted(set(empty), key=_simplicity)[: max(1, len(full) // 7)]
    return st.sampled_from(full + empty if axes else full)


def _simplicity(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return math.prod(shape), shape


@st.composite
def any_shape(draw: Draw) -> tuple[int, ...]:
    """Of up to four axes and 24 elements."""
    return draw(_of_axes(draw(st.sampled_from(_AXES))))


FEW = st.sampled_from([(), (2,), (1,), (3,), (2, 3), (1, 1), (3, 1, 2), (2, 1, 1, 2), (0,), (2, 0)])
"""Shapes for the arrays inside of trees: one choice each."""


def shapes_of(shape: Any) -> st.SearchStrategy[tuple[int, ...]]:
    """A strategy for what a `shape` argument stands for.

    Raises:
        ArgumentTypeError, ArgumentValueError: It is nothing of the kind.
    """
    if shape is None:
        return any_shape()
    if isinstance(shape, st.SearchStrategy):
        return shape.map(as_shape)
    return st.just(as_shape(shape))


def _is_whole(size: Any) -> bool:
    return isinstance(size, int | np.integer) and not isinstance(size, bool)


def as_shape(shape: Any) -> tuple[int, ...]:
    """A tuple of sizes; a number is a shape of one axis."""
    sizes: Any = (shape,) if _is_whole(shape) else shape
    if (
        not isinstance(sizes, Sequence)
        or isinstance(sizes, str | bytes)
        or not all(map(_is_whole, sizes))
    ):
        raise ArgumentTypeError(
            f"`shape` (={shape!r}) must be a tuple of whole numbers, `None` for any, or a strategy."
        )
    if min(sizes, default=0) < 0:
        raise ArgumentValueError(f"`shape` (={shape!r}) has a negative size.")
    return tuple(map(int, sizes))
