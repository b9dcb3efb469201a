"""The table of names: which array of a state dict goes where, and how it lies there."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..._custom_types import Door
from ..._errors import ArgumentTypeError, ArgumentValueError, TreeError
from ...checkpoint._rename import applied, signs
from ...tree import select
from .._names import or_near


@dataclasses.dataclass(frozen=True)
class Transposed:
    """A place in the model whose axes are in another order.

    Attributes:
        path: The place, as a string in the table.
        axes: Which of their axes each of ours is, as in `numpy.transpose`; by default they are
            reversed.
        flipped: The axes of ours along which the numbers come from the last to the first.

    Example:
        >>> rename = {
        ...     "fc.weight": Transposed("readout/kernel"),
        ...     "up.weight": Transposed("up/weight", (1, 0, 2, 3), flipped=(2, 3)),
        ... }
    """

    path: str
    axes: Door[tuple[int, ...] | None] = None
    flipped: Door[tuple[int, ...]] = ()


@dataclasses.dataclass(frozen=True, init=False)
class Split:
    """Several places, whose arrays are one of theirs, one behind the other.

    Attributes:
        parts: The places, strings or `Transposed`.
        axis: The axis of theirs that is cut, by default the first; each part gets as much as it
            has.

    Example:
        >>> names = [f"layers/*/attention/{name}_proj/weight" for name in ("query", "key", "value")]
        >>> rename = {"layers.*.self_attn.in_proj_weight": Split(*names)}
    """

    parts: tuple[str | Transposed, ...]
    axis: int

    def __init__(self, *parts: Door[str | Transposed], axis: int = 0):
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "axis", axis)


Rename = Mapping[str, str | Transposed | Split | None]


class Part(NamedTuple):
    """One place that an array goes to.

    Attributes:
        path: Where.
        axes: How it is transposed: `()` for not at all, None for reversed.
        flipped: The axes of ours that run the other way.
    """

    path: str
    axes: tuple[int, ...] | None
    flipped: tuple[int, ...] = ()


class Route(NamedTuple):
    """Where one array of theirs goes.

    Attributes:
        parts: The places; none for an array that is left out.
        axis: The axis that is cut, if there are several.
    """

    parts: tuple[Part, ...]
    axis: int


class _Rule(NamedTuple):
    key: str
    glob: list[str]
    parts: tuple[Part, ...]
    axis: int


def routes_of(names: Sequence[str], rename: Door[Rename | None]) -> dict[str, Route]:
    """Where each name of a state dict goes.

    A name that no glob matches goes to the place of the same name.

    Args:
        names: Of the state dict.
        rename: Places by globs over names.

    Raises:
        ArgumentTypeError, ArgumentValueError: The table cannot be used.
        TreeError: A glob matches no name.
    """
    rules = [_rule(key, target) for key, target in _checked(rename).items()]
    plain = {name: name.replace(".", "/") for name in names}
    first: dict[str, _Rule] = {}
    idle = []
    for rule, hits in zip(rules, _hits(rules, list(plain.values())), strict=True):
        if not hits:
            idle.append(rule.key)
        for path in hits:
            first.setdefault(path, rule)
    if idle:
        listed = "\n  ".join(f"`{key}`{or_near(key, names, 3)}" for key in idle)
        raise TreeError(
            f"`rename` has globs that match none of the {len(names)} names of the state dict:\n"
            f"  {listed}\n`*` stands for what is between two dots, `**` for any number of such."
        )
    return {name: _route(path, first.get(path)) for name, path in plain.items()}


def _hits(rules: list[_Rule], paths: list[str]) -> Iterator[list[str]]:
    """The paths that each rule is for."""
    there = set(paths)
    for rule in rules:
        glob = "/".join(rule.glob)
        if not signs(glob):  # A table may name every array, and there may be thousands.
            yield [glob] if glob in there else []
            continue
        try:
            chosen = select(glob).matches(paths)
        except TreeError:  # There is none; all such globs are told at once.
            yield []
        else:
            yield list(itertools.compress(paths, chosen))


def _route(path: str, rule: _Rule | None) -> Route:
    if rule is None:
        return Route((Part(path, ()),), 0)
    parts = [
        part._replace(path=str(applied(rule.glob, part.path.split("/"), path)))
        for part in rule.parts
    ]
    return Route(tuple(parts), rule.axis)


def _checked(rename: Any) -> Mapping[Any, Any]:
    if rename is None:
        return {}
    if not isinstance(rename, Mapping):
        raise ArgumentTypeError(
            f"`rename` (={rename!r}) must be a dictionary, {{'fc.*': 'readout/*'}}, not of type "
            f"{type(rename).__name__}."
        )
    return rename


def _rule(key: Any, target: Any) -> _Rule:
    if not isinstance(key, str) or not isinstance(target, str | Transposed | Split | None):
        raise ArgumentTypeError(
            f"`rename` has {key!r}: {target!r}. A name of theirs, or a glob, stands for a place in "
            "the model: a string, a `Transposed`, a `Split`, or None for what is left out."
        )
    glob = key.replace(".", "/")
    inside = () if target is None else target.parts if isinstance(target, Split) else (target,)
    parts = []
    for each in inside:
        turned = isinstance(each, Transposed)
        part = Part(each.path, each.axes, each.flipped) if turned else Part(each, ())
        if not isinstance(part.path, str):
            raise ArgumentTypeError(
                f"`rename` has {key!r}: {target!r}, with a place {part.path!r}."
            )
        numbers = [() if part.axes is None else part.axes, part.flipped]
        if not all(
            isinstance(each, tuple) and all(type(n) is int for n in each) for each in numbers
        ):
            raise ArgumentTypeError(
                f"`rename` has {key!r}: {target!r}, and `axes` and `flipped` must be tuples of "
                "whole numbers."
            )
        if signs(glob) != signs(part.path):
            raise ArgumentValueError(
                f"`rename` has {key!r}: {part.path!r}, and the place must have the same signs "
                f"({', '.join(signs(glob)) or 'none'}) in the same order, as in "
                "'encoder.**': 'backbone/**'."
            )
        parts.append(part)
    if isinstance(target, Split) and not parts:
        raise ArgumentValueError(f"`rename` has {key!r}: `Split()`, which names no place.")
    return _Rule(
        key, glob.split("/"), tuple(parts), target.axis if isinstance(target, Split) else 0
    )
