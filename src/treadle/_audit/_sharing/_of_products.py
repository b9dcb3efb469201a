"""What products, convolutions and indices are to the axes of data."""

import math
from collections.abc import Sequence
from typing import Any

from .._keys._lineage import Path
from ._spread import (
    DATA,
    NONE,
    PARAMETERS,
    Groups,
    Spread,
    beside,
    differing,
    merged,
    moved,
    spread_of,
)
from ._walk import Rule, Walk, in_a_loop, is_again


def _dot(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    (left_sum, right_sum), (left_batch, right_batch) = (
        [[int(at) for at in side] for side in sides]
        for sides in equation.params["dimension_numbers"]
    )
    left, right = values[:2]
    for a, b in zip(left_sum, right_sum, strict=True):
        _summed(walk, left, a, right, b, path)
    for a, b in zip(left_batch, right_batch, strict=True):
        walk.together.join(left.axes[a], right.axes[b])
        if left.axes[a] and right.axes[b]:
            walk.aligned |= left.axes[a] | right.axes[b]
    left_free = _free(left, left_sum, left_batch)
    right_free = _free(right, right_sum, right_batch)
    if left.is_data and right.is_data:
        walk.crossed |= {
            (one, other)
            for a in left_free
            for b in right_free
            for one in left.axes[a]
            for other in right.axes[b]
        }
    shape = equation.outvars[0].aval.shape
    batch = [[at] for at in left_batch], [[at] for at in right_batch]
    of_left: Groups = [*batch[0], *([at] for at in left_free), *([] for _ in right_free)]
    of_right: Groups = [*batch[1], *([] for _ in left_free), *([at] for at in right_free)]
    found = beside([moved(left, of_left, shape), moved(right, of_right, shape)])
    for drawn, summed, other, free, first in (
        (left, left_sum, right, right_free, len(shape) - len(right_free)),
        (right, right_sum, left, left_free, len(left_batch)),
    ):
        found = _correlated(found, drawn, summed, other, free, first)
    drawn = _is_projection(left, right) or _is_projection(right, left)
    parameters = any(_is_parameters(value) for value in (left, right))
    return [found._replace(projected=drawn or (found.projected and not parameters))]


def _summed(walk: Walk, left: Spread, a: int, right: Spread, b: int, path: Path) -> None:
    for axes, other in ((left.axes[a], right), (right.axes[b], left)):
        if _is_parameters(other):
            walk.contracted |= axes
    if left.axes[a] and right.axes[b] and not is_again(path):
        walk.pairs |= {(one, other) for one in left.axes[a] for other in right.axes[b]}


def _convolved(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    numbers = equation.params["dimension_numbers"]
    value, kernel = values
    batch, features, *spatial = map(int, numbers.lhs_spec)
    if not is_again(path):
        for axes in kernel.axes:
            walk.kernels |= axes
        walk.contracted |= value.axes[features]
        for at, of_kernel in zip(spatial, numbers.rhs_spec[2:], strict=True):
            if kernel.shape[of_kernel] > 1:
                walk.mixed |= value.axes[at]
    shape = equation.outvars[0].aval.shape
    groups: list[list[int]] = [[] for _ in shape]
    groups[numbers.out_spec[0]] = [batch]
    data = moved(value, groups, shape)._replace(draws=(), projected=False)
    own = spread_of(shape, depends=value.depends | kernel.depends)
    return [merged([data, own], ())]


def _gathered(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    numbers = equation.params["dimension_numbers"]
    value, indices = values
    shape = equation.outvars[0].aval.shape
    paired = dict(
        zip(numbers.start_indices_batching_dims, numbers.operand_batching_dims, strict=True)
    )
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [at for at in range(len(value.shape)) if at not in gone]
    groups: list[list[int]] = [[] for _ in shape]
    places = [at for at in range(len(shape)) if at not in numbers.offset_dims]
    of_indices: list[list[int]] = [[] for _ in shape]
    for at, out in enumerate(places):
        of_indices[out] = [at]
        groups[out] = [int(paired[at])] if at in paired else []
    for at, out in zip(kept, numbers.offset_dims, strict=True):
        groups[out] = [at]
    found = moved(value, groups, shape)
    picked = moved(indices, of_indices, shape)
    collapsed = numbers.collapsed_slice_dims
    taken = [int(at) for at in numbers.start_index_map if at in collapsed]
    if not any(picked.varies) and in_a_loop(path):
        for at in taken:
            walk.runs_over(value, at, walk.scanned)
    walk.join([found, picked])
    chosen = NONE.union(*(value.axes[at] for at in taken))
    for at in places:
        walk.pair(chosen, picked.axes[at])
    return [_picked(found, picked, value, taken, places)]


def _is_parameters(value: Spread) -> bool:
    return bool(value.depends & PARAMETERS) and not value.depends & DATA


def _correlated(
    found: Spread,
    drawn: Spread,
    summed: Sequence[int],
    other: Spread,
    free: Sequence[int],
    first: int,
) -> Spread:
    """The product of draws and a matrix of numbers, as in a normal distribution with a covariance.

    It has no more numbers than were drawn, or they only place many points, as an affine map does.
    """
    many = math.prod(drawn.shape[at] for at in summed if any(d.along[at] for d in drawn.draws))
    if not found.draws or other.depends or math.prod(other.shape[at] for at in free) > many:
        return found
    for at in range(first, first + len(free)):
        found = differing(found, at, drawn=True)
    return found


def _is_projection(value: Spread, matrix: Spread) -> bool:
    """Whether data is multiplied with numbers that were drawn."""
    return value.is_data and bool(matrix.draws) and matrix.is_random


def _free(value: Spread, summed: Sequence[int], batch: Sequence[int]) -> list[int]:
    return [at for at in range(len(value.shape)) if at not in summed and at not in batch]


def _picked(
    found: Spread, picked: Spread, value: Spread, taken: Sequence[int], places: Sequence[int]
) -> Spread:
    """Elements of an array at indices.

    Args:
        found: What is kept of the array's own dimensions.
        picked: The indices, in the shape of the result.
        value: The array.
        taken: The dimensions that the indices choose from.
        places: The dimensions of the result that run over indices.
    """
    axes = NONE.union(*(value.axes[at] for at in taken))
    own = [draw for draw in value.draws if value.is_random]
    chosen = any(value.varies[at] for at in taken)
    levels = list(found.varies)
    all_axes = list(found.axes)
    for at in places:
        levels[at] = max(levels[at], picked.varies[at] if chosen else 0)
        if picked.varies[at]:
            all_axes[at] = all_axes[at] | axes
        all_axes[at] = all_axes[at] | picked.axes[at]
    draws = []
    for draw, source in zip(found.draws if own else (), own, strict=True):
        many = any(source.along[at] for at in taken)
        along = [
            each or (many and at in places and picked.varies[at] > 0)
            for at, each in enumerate(draw.along)
        ]
        draws.append(draw._replace(along=tuple(along)))
    if not value.depends:
        draws += picked.draws
    return Spread(
        found.shape,
        tuple(levels),
        tuple(all_axes),
        value.depends | picked.depends,
        tuple(draws),
        value.over | picked.over,
        value.projected,
    )


RULES: dict[str, Rule] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolved,
    "gather": _gathered,
}
