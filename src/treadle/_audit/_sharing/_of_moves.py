"""Where axes go when dimensions change places, are cut, joined, reduced."""

from collections.abc import Sequence
from typing import Any

from .._keys._lineage import Path
from ._spread import (
    DIFFERS,
    NONE,
    Groups,
    Spread,
    beside,
    differing,
    merged,
    moved,
    regrouped,
    spread_of,
    unmoved,
    with_new,
    without,
)
from ._walk import Rule, Walk, by_leading, in_a_loop


def _moves(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    """Dimensions change places, vanish, appear."""
    shape = equation.outvars[0].aval.shape
    if equation.primitive.name == "squeeze" and values[0].over:
        # How `pmap` hands each device its part.
        for at in equation.params["dimensions"]:
            walk.devices |= values[0].axes[at]
    return [moved(values[0], _groups(equation, values[0], shape), shape)]


def _window(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    """A part of an array from places that are computed."""
    value, shape = values[0], equation.outvars[0].aval.shape
    if in_a_loop(path):
        for at, size in enumerate(shape):
            if size == 1 < value.shape[at]:
                walk.runs_over(value, at, walk.scanned)
    return [moved(value, unmoved(shape), shape)]


def _updated(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    """A part of an array is put into another."""
    value, update = values[:2]
    part = moved(update, unmoved(value.shape), value.shape)
    return [beside([value, part])]


def _scattered(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    value, _, updates = values
    leading = by_leading([value, updates], value.shape, most=len(value.shape))
    kept = value.draws if value.is_random and not updates.depends else ()
    found = merged([value, leading], kept)
    return [found._replace(varies=spread_of(value.shape).varies)]


def _concatenated(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    shape = equation.outvars[0].aval.shape
    at = equation.params["dimension"]
    walk.join(values)
    found = beside([moved(value, unmoved(shape), shape) for value in values])
    axes = NONE.union(*(value.axes[at] for value in values))
    found = found._replace(axes=(*found.axes[:at], axes, *found.axes[at + 1 :]))
    if all(value is values[0] for value in values) and not values[0].varies[at]:
        return [found]
    return [differing(found, at, drawn=bool(found.draws))]


def _stacked(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    at, size = equation.params["axis"], len(values)
    walk.join(values)
    found = with_new(beside(values), at, size)
    if all(value is values[0] for value in values):
        return [found]
    return [differing(found, at, drawn=bool(found.draws))]


def _parts(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    """`split` and `unstack`."""
    value = values[0]
    found = []
    for out in equation.outvars:
        shape = out.aval.shape
        if len(shape) < len(value.shape):
            found.append(without(value, [equation.params["axis"]]))
        else:
            found.append(moved(value, unmoved(shape), shape))
    return found


def _sorted(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    return [beside(values)] * len(equation.outvars)


def _top(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    shape = equation.outvars[0].aval.shape
    return [moved(values[0], unmoved(shape), shape)] * len(equation.outvars)


def _reduced(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    params = equation.params
    axes = params["axes"] if "axes" in params else params["dimensions"]
    outs = equation.outvars
    return [without(value, axes) for value in values[: len(outs)]]


def _iota(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    shape = equation.outvars[0].aval.shape
    at = equation.params["dimension"]
    return [spread_of(shape, [DIFFERS if each == at else 0 for each in range(len(shape))])]


def _so_far(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    walk.mixed |= values[0].axes[equation.params["axis"]]
    return [values[0]]


def _windows(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    """Pooling."""
    value, shape = values[0], equation.outvars[0].aval.shape
    for at, size in enumerate(equation.params.get("window_dimensions", ())):
        if size > 1:
            walk.mixed |= value.axes[at]
    return [moved(value, unmoved(shape), shape)] * len(equation.outvars)


def _selected(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    _, first, *others = values
    if all(other is first for other in others):
        return [first]  # What two branches captured.
    return [walk.elementwise(values, first.shape, path)]


def _groups(equation: Any, value: Spread, shape: Sequence[int]) -> Groups:
    """Where the dimensions of a result come from."""
    params = equation.params
    match equation.primitive.name:
        case "transpose":
            return [[int(at)] for at in params["permutation"]]
        case "broadcast_in_dim":
            found: list[list[int]] = [[] for _ in shape]
            for at, place in enumerate(params["broadcast_dimensions"]):
                found[int(place)] = [at]
            return found
        case "reshape":
            return regrouped(value.shape, shape)
        case "squeeze":
            gone = {at % len(value.shape) for at in params["dimensions"]}
            return [[at] for at in range(len(value.shape)) if at not in gone]
        case "tile":
            added = len(shape) - len(value.shape)
            return [[at - added] if at >= added else [] for at in range(len(shape))]
    return unmoved(shape)


RULES: dict[str, Rule] = {
    "iota": _iota,
    "dynamic_slice": _window,
    "dynamic_update_slice": _updated,
    "concatenate": _concatenated,
    "stack": _stacked,
    "select_n": _selected,
    "top_k": _top,
    "sort": _sorted,
    **dict.fromkeys(("split", "unstack"), _parts),
    **dict.fromkeys(
        ("transpose", "broadcast_in_dim", "reshape", "squeeze", "tile", "slice", "pad", "rev"),
        _moves,
    ),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _so_far),
    **dict.fromkeys(
        ("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"),
        _windows,
    ),
    **dict.fromkeys(
        (
            *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
            *("reduce_xor", "argmax", "argmin", "reduce"),
        ),
        _reduced,
    ),
    **dict.fromkeys(
        (
            *("scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"),
            *("scatter-sub", "scatter_add", "scatter_mul", "scatter_min", "scatter_max"),
        ),
        _scattered,
    ),
}
