"""What is known of a value along each dimension: what differs there, and what lies there."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

PARAMETERS, DATA, DRAWN = 1, 2, 4
"""What a value depends on, as bits."""

SAME, DRAWS_DIFFER, DIFFERS = 0, 1, 2
"""Along a dimension: all elements are equal; they differ by what was drawn only; they differ."""

_LARGEST = 1 << 16
"""Elements of a constant that are looked at."""

Groups = Sequence[Sequence[Any]]
"""For each dimension of a result the dimensions of the value that it was made of. (Batching gives
them as NumPy's integers at times.)"""


class Draw(NamedTuple):
    """Random numbers that have met nothing yet.

    Attributes:
        source: Where they were drawn.
        along: For each dimension whether each place along it has its own.
        over: The axes of the mesh along which each device has its own.
    """

    source: Any
    along: tuple[bool, ...]
    over: frozenset[str]


class Spread(NamedTuple):
    """What is known of a value.

    Attributes:
        shape: Its shape.
        varies: For each dimension how elements differ along it.
        axes: For each dimension the axes of data that lie along it, as numbers.
        depends: Bits of what it depends on.
        draws: What was drawn, as long as it has met nothing.
        over: The axes of the mesh along which it differs between devices.
        projected: Whether it is data that was multiplied with a drawn matrix.
    """

    shape: tuple[int, ...]
    varies: tuple[int, ...]
    axes: tuple[frozenset[int], ...]
    depends: int = 0
    draws: tuple[Draw, ...] = ()
    over: frozenset[str] = frozenset()
    projected: bool = False

    @property
    def is_random(self) -> bool:
        """Whether it comes of draws and constants only."""
        return not self.depends & (PARAMETERS | DATA)

    @property
    def is_data(self) -> bool:
        """Whether an axis of data lies along it."""
        return any(self.axes)


NONE: frozenset[int] = frozenset()
"""No axes of data."""

NOWHERE: frozenset[str] = frozenset()
"""No axes of a mesh."""


def spread_of(shape: Sequence[int], varies: Any = DIFFERS, depends: int = 0) -> Spread:
    """A value that differs along all of its dimensions, or along those that are told."""
    shape = tuple(shape)
    each = (varies,) * len(shape) if isinstance(varies, int) else varies
    levels = tuple(
        SAME if size == 1 else int(level) for size, level in zip(shape, each, strict=True)
    )
    return Spread(shape, levels, (NONE,) * len(shape), depends)


def constant(value: Any, shape: Sequence[int]) -> Spread:
    """A constant of the program."""
    if not shape or np.size(value) > _LARGEST or not hasattr(value, "dtype"):
        return spread_of(shape)
    if not isinstance(value.dtype, np.dtype):
        return spread_of(shape)  # Typed keys.
    array = np.asarray(value).reshape(shape)
    levels = [
        DIFFERS if np.any(array != np.take(array, [0], at)) else SAME for at in range(array.ndim)
    ]
    return spread_of(shape, levels)


def random(source: Any, along: Sequence[bool], shape: Sequence[int], over: Any) -> Spread:
    """Numbers that were drawn."""
    own = tuple(bool(each) and size > 1 for each, size in zip(along, shape, strict=True))
    plain = spread_of(shape, [DRAWS_DIFFER if each else SAME for each in own], DRAWN)
    return plain._replace(draws=(Draw(source, own, over),), over=over)


# -- moving ---------------------------------------------------------------------------------------


def unmoved(shape: Sequence[int]) -> Groups:
    """Each dimension where it was."""
    return [[at] for at in range(len(shape))]


def moved(value: Spread, groups: Groups, shape: Sequence[int]) -> Spread:
    """The value with other dimensions."""
    shape = tuple(shape)
    varies, axes = [], []
    for group, size in zip(groups, shape, strict=True):
        varies.append(max((value.varies[at] for at in group), default=SAME) if size > 1 else SAME)
        kept = [at for at in group if (value.shape[at] > 1) == (size > 1)]
        axes.append(frozenset().union(*(value.axes[at] for at in kept)))
    draws = tuple(
        draw._replace(
            along=tuple(
                size > 1 and any(draw.along[at] for at in group)
                for group, size in zip(groups, shape, strict=True)
            )
        )
        for draw in value.draws
    )
    return value._replace(shape=shape, varies=tuple(varies), axes=tuple(axes), draws=draws)


def regrouped(before: Sequence[int], after: Sequence[int]) -> list[list[int]]:
    """Which dimensions a reshape merges, splits and keeps."""
    groups: list[list[int]] = [[] for _ in after]
    old = [at for at, size in enumerate(before) if size != 1]
    new = [at for at, size in enumerate(after) if size != 1]
    while old and new:
        taken, made = [old.pop(0)], [new.pop(0)]
        left, right = before[taken[0]], after[made[0]]
        while left != right and (old or new):
            if left < right and old:
                taken.append(old.pop(0))
                left *= before[taken[-1]]
            elif new:
                made.append(new.pop(0))
                right *= after[made[-1]]
            else:
                break
        for at in made:
            groups[at] = list(taken)
    # An axis of length one stays where all before it stays.
    for at, (a, b) in enumerate(zip(before, after, strict=False)):
        if a != b:
            break
        groups[at] = [at]
    return groups


def without(value: Spread, dropped: Sequence[Any]) -> Spread:
    """The value with dimensions left out."""
    kept = [at for at in range(len(value.shape)) if at not in dropped]
    return moved(value, [[at] for at in kept], [value.shape[at] for at in kept])


def with_new(value: Spread, at: Any, size: int) -> Spread:
    """The value repeated along a new dimension."""
    groups: list[list[int]] = [[each] for each in range(len(value.shape))]
    groups.insert(at, [])
    shape = list(value.shape)
    shape.insert(at, size)
    return moved(value, groups, shape)


def fitted(value: Spread, shape: Sequence[int]) -> Spread:
    """The value as it stands in an operation element by element on such a shape."""
    if value.shape == tuple(shape):
        return value
    groups: list[list[int]] = [[] for _ in shape]
    if len(value.shape) == len(shape):
        groups = [[at] for at in range(len(shape))]
    return moved(value, groups, shape)


def differing(value: Spread, at: Any, *, drawn: bool) -> Spread:
    """The value, whose elements differ along a dimension."""
    if value.shape[at] == 1:
        return value
    level = DRAWS_DIFFER if drawn else DIFFERS
    varies = list(value.varies)
    varies[at] = max(varies[at], level)
    draws = tuple(
        draw._replace(along=(*draw.along[:at], True, *draw.along[at + 1 :])) for draw in value.draws
    )
    return value._replace(varies=tuple(varies), draws=draws)


# -- together -------------------------------------------------------------------------------------


def over_of(values: Sequence[Spread]) -> frozenset[str]:
    """The axes of the mesh along which one of them differs between devices."""
    return NOWHERE.union(*(value.over for value in values))


def merged(values: Sequence[Spread], draws: tuple[Draw, ...]) -> Spread:
    """What comes of several values of one shape."""
    depends = 0
    for value in values:
        depends |= value.depends
    return Spread(
        values[0].shape,
        tuple(max(levels) for levels in zip(*(value.varies for value in values), strict=True)),
        tuple(NONE.union(*axes) for axes in zip(*(value.axes for value in values), strict=True)),
        depends,
        draws,
        over_of(values),
        any(value.projected for value in values),
    )


def _all_draws(values: Sequence[Spread]) -> tuple[Draw, ...]:
    found: dict[Any, Draw] = {}
    for draw in (draw for value in values for draw in value.draws):
        known = found.get(draw.source)
        if known is not None:
            along = tuple(a or b for a, b in zip(known.along, draw.along, strict=True))
            draw = Draw(draw.source, along, known.over | draw.over)
        found[draw.source] = draw
    return tuple(found.values())


def beside(values: Sequence[Spread]) -> Spread:
    """Values of one shape that lie side by side in the result, or take each other's place."""
    random_only = all(value.is_random for value in values)
    return merged(values, _all_draws(values) if random_only else ())


def either(one: Spread, other: Spread) -> Spread:
    """One of two values: of a branch, or of another turn of a loop."""
    draws: tuple[Draw, ...]
    if not one.depends or not other.depends or (one.is_random and other.is_random):
        draws = _all_draws([one, other])
    else:
        both = {draw.source for draw in one.draws} & {draw.source for draw in other.draws}
        draws = tuple(draw for draw in _all_draws([one, other]) if draw.source in both)
    return merged([one, other], draws)


Note = Callable[[Draw, Spread], None]


def elementwise(values: Sequence[Spread], shape: Sequence[int], note: Note) -> Spread:
    """What comes of values element by element.

    A draw that meets parameters or data which differ along what was drawn is part of them from then
    on. One that only meets numbers, or one number for each example, is still a draw.

    Args:
        values: The operands.
        shape: Of the result.
        note: Called with a draw and the data that it meets.
    """
    told = [value for value in values if value.shape or value.depends or value.over]
    if len(told) == 1 and told[0].shape == tuple(shape):
        return told[0]
    values = [fitted(value, shape) for value in values]
    kept: list[Draw] = []
    for at, value in enumerate(values):
        for draw in value.draws:
            others = [
                other
                for each, other in enumerate(values)
                if each != at and not other.is_random and _takes_up(draw, other)
            ]
            for other in others:
                if other.is_data:
                    note(draw, other)
            if not others:
                kept.append(draw)
    holders = [value._replace(draws=()) for value in values]
    of_kept = [holders[0]._replace(draws=tuple(kept))] if values else []
    return merged(holders, _all_draws(of_kept))


def _takes_up(draw: Draw, other: Spread) -> bool:
    """Whether something differs by itself along a dimension that was drawn, or by another draw.

    A phase that is added to random features is part of them, and so is a tangent of the bias.
    """
    return other.projected or any(
        drawn and level == DIFFERS for drawn, level in zip(draw.along, other.varies, strict=True)
    )
