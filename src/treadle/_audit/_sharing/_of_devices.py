"""What programs over several devices are to the axes of data."""

from collections.abc import Sequence
from typing import Any

from .._keys._lineage import Path
from ._spread import (
    DATA,
    NONE,
    NOWHERE,
    Spread,
    differing,
    moved,
    spread_of,
    unmoved,
    with_new,
    without,
)
from ._walk import Rule, Walk


def _sharded(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    params = equation.params
    jaxpr = params["jaxpr"]
    specs = params["in_specs"] if "in_specs" in params else params["in_names"]
    ends = params["out_specs"] if "out_specs" in params else params["out_names"]
    given = []
    for value, spec, var in zip(values, specs, _open(jaxpr).invars, strict=True):
        names = _names(spec)
        for at, each in names.items():
            for name in each:
                walk.meshes.setdefault(name, set()).update(value.axes[at])
        inside = moved(value, unmoved(var.aval.shape), var.aval.shape)
        axes = tuple(
            value.axes[at] if at in names else inside.axes[at] for at in range(len(value.shape))
        )
        over = inside.over.union(*names.values())
        given.append(inside._replace(axes=axes, over=over))
    outs = walk.program(jaxpr, given, path)
    return [
        _unsharded(walk, value, _names(spec), out.aval.shape)
        for value, spec, out in zip(outs, ends, equation.outvars, strict=True)
    ]


def _unsharded(
    walk: Walk, value: Spread, names: dict[int, tuple[str, ...]], shape: Sequence[int]
) -> Spread:
    whole = moved(value, unmoved(shape), shape)
    axes = list(value.axes)
    for at, each in names.items():
        if value.depends & DATA and not axes[at]:
            axes[at] = NONE.union(*(walk.meshes.get(name, ()) for name in each))
        if value.over.intersection(each):
            whole = differing(whole, at, drawn=value.is_random and bool(value.depends))
    return whole._replace(axes=tuple(axes), over=NOWHERE)


def _pmapped(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    params = equation.params
    name, size = params["axis_name"], params["global_axis_size"]
    given = []
    for value, at in zip(values, params["in_axes"], strict=True):
        if at is None:
            given.append(value)
            continue
        walk.meshes.setdefault(name, set()).update(value.axes[at])
        walk.devices |= value.axes[at]
        inside = without(value, [at])
        given.append(inside._replace(over=inside.over | {name}))
    found = []
    outs = walk.program(params["call_jaxpr"], given, path)
    for value, at in zip(outs, params["out_axes"], strict=True):
        whole = value if at is None else with_new(value, at, size)
        if at is not None and value.depends & DATA:
            axes = frozenset(walk.meshes.get(name, ()))
            whole = whole._replace(axes=(*whole.axes[:at], axes, *whole.axes[at + 1 :]))
        if at is not None and name in value.over:
            whole = differing(whole, at, drawn=value.is_random and bool(value.depends))
        found.append(whole._replace(over=whole.over - {name}))
    return found


def _place(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    """Which device it is."""
    name = equation.params["axis_name"]
    names = name if isinstance(name, tuple) else (name,)
    return [spread_of(())._replace(over=frozenset(map(str, names)))]


def _over_devices(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    """A sum or another reduction over devices, or over an axis that `vmap` named."""
    axes = equation.params["axes"]
    names = frozenset(str(each) for each in axes if not isinstance(each, int))
    places = [each for each in axes if isinstance(each, int)]
    return [without(value, places)._replace(over=value.over - names, draws=()) for value in values]


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _names(spec: Any) -> dict[int, tuple[str, ...]]:
    """Which axes of the mesh each dimension is spread over."""
    if hasattr(spec, "items"):  # JAX before 0.7.
        return {at: tuple(map(str, names)) for at, names in spec.items() if names}
    found = {}
    for at, names in enumerate(spec):
        if names:
            each = names if isinstance(names, tuple) else (names,)
            found[at] = tuple(map(str, each))
    return found


RULES: dict[str, Rule] = {
    "shard_map": _sharded,
    "xla_pmap": _pmapped,
    "axis_index": _place,
    **dict.fromkeys(("psum", "psum_invariant", "pmax", "pmin"), _over_devices),
}
