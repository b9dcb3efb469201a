"""Where values of float64 (and complex128) come from, in a program that is not all of them."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core as jex_core

from ..._jaxpr import inner_jaxprs
from .._private import is_backward
from .._source import Place, path_frames, user_place
from ._facts import Facts, Path
from ._promotions import is_models, is_told
from ._widening import MOVES

DOUBLES = (np.dtype(np.float64), np.dtype(np.complex128))


class Origin(NamedTuple):
    """Where float64 comes from.

    Attributes:
        place: The user's line; `None` where it came in.
        argument: The number of the array that came in; -1 where none did.
        text: The dtype and shape.
    """

    place: Place | None
    argument: int
    text: str


class Fact(NamedTuple):
    """What is known of a value of float64.

    Attributes:
        origins: Where it comes from.
        waits: Whether JAX has just made it of something narrower, to meet another one.
        number: Whether it is made of numbers in the program only: such have the dtype of what they
            are written next to, where that has one.
    """

    origins: frozenset[Origin]
    waits: bool = False
    number: bool = False


def doubles(closed: Any) -> list[Origin]:
    """Where float64 comes from that arrays are computed in."""
    search = _Search()
    given = [
        Fact(frozenset({Origin(None, at, _text(var))})) if is_double(var.aval) else None
        for at, var in enumerate(closed.jaxpr.invars)
    ]
    search.run(closed, given)
    return list(search.found)


def is_double(aval: Any) -> bool:
    """Whether an array is of float64, and not only because a number of Python is."""
    return getattr(aval, "dtype", None) in DOUBLES and not getattr(aval, "weak_type", False)


def _is_count(aval: Any) -> bool:
    dtype = getattr(aval, "dtype", None)
    return isinstance(dtype, np.dtype) and dtype.kind in "biu"


def _text(atom: Any) -> str:
    return f"{atom.aval.dtype}{list(atom.aval.shape)}"


class _Search(Facts[Fact]):
    """Follows float64 through a program."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[Origin, None] = {}
        self._places: dict[tuple[int, ...], Place | None] = {}

    def matters(self, equation: Any) -> bool:
        return any(is_double(atom.aval) for atom in (*equation.invars, *equation.outvars))

    def place(self, path: Path) -> Hashable:
        key = tuple(id(each) for each in path)
        if key not in self._places:
            self._places[key] = user_place(path)
        return self._places[key]

    def join(self, one: Fact, other: Fact) -> Fact:
        waits, number = one.waits and other.waits, one.number and other.number
        return Fact(one.origins | other.origins, waits, number)

    def is_one(self, equation: Any, path: Path) -> bool:
        """A function of JAX's own: what it computes with inside is its business."""
        around = path_frames(path)
        return not any(_has_lines(inner, around) for inner in _inner(equation))

    def constant(self, value: Any, path: Path) -> Fact | None:
        if not path or not is_double(value.aval):
            return None
        fact = self._new(value, path)
        alone = isinstance(value, jex_core.Literal) and getattr(value.aval, "size", 0) == 1
        return fact if fact is None or not alone else fact._replace(number=True)

    def _new(self, atom: Any, path: Path) -> Fact | None:
        place = self.place(path)
        if is_backward(path[-1]) or not is_models(path_frames(path)):
            return None
        if not isinstance(place, Place):
            return None
        return Fact(frozenset({Origin(place, -1, _text(atom))}))

    def primitive(
        self, equation: Any, inputs: Sequence[Fact | None], path: Path
    ) -> Sequence[Fact | None]:
        known = [fact for fact in inputs if fact is not None]
        numbers = [fact for fact in known if fact.number]
        settled = [fact for fact in known if not fact.waits and not fact.number]
        name = equation.primitive.name
        made = [out for out in equation.outvars if is_double(out.aval)]
        if known:
            decide = settled or numbers or known
            origins = frozenset[Origin]().union(*(fact.origins for fact in decide))
            alone = len(numbers) == len(equation.invars) and not any(
                out.aval.size > 1 and name not in MOVES for out in made
            )
            fact = Fact(origins, not (settled or numbers) and name in MOVES, alone)
        elif made and not any(is_double(atom.aval) for atom in equation.invars):
            fact = self._new(made[0], path)
            if fact is not None and name == "convert_element_type":
                fact = fact._replace(waits=not is_told(path_frames(path)))
        else:
            fact = None  # Of an optimizer's.
        moves = name in MOVES or name == "convert_element_type"
        arrays = [atom for atom in (*equation.invars, *made) if is_double(atom.aval)]
        if fact is not None and not moves and any(atom.aval.size > 1 for atom in arrays):
            self.found.update(dict.fromkeys(fact.origins))
        # What is compared or counted hands on where it came from.
        return [
            fact if is_double(out.aval) or _is_count(out.aval) else None for out in equation.outvars
        ]


def _inner(equation: Any) -> list[Any]:
    return [each for value in equation.params.values() for each in inner_jaxprs(value)]


def _has_lines(jaxpr: Any, around: list[Any]) -> bool:
    """Whether a program was traced through lines that are not JAX's."""
    return any(
        any(frame.library not in ("jax", "python") for frame in _new_frames(equation, around))
        or any(_has_lines(inner, around) for inner in _inner(equation))
        for equation in jaxpr.eqns
    )


def _new_frames(equation: Any, around: list[Any]) -> list[Any]:
    own = path_frames([equation])
    same = 0
    while same < min(len(own), len(around)) and own[same] == around[same]:
        same += 1
    return own[same:]


def narrower(closed: Any) -> bool:
    """Whether a program holds arrays of real numbers that are no float64, as constants."""
    return any(
        np.asarray(value).size > 1 and _is_narrow(value)
        for value in closed.consts
        if hasattr(value, "dtype") and not isinstance(value, jex_core.Literal)
    )


def _is_narrow(value: Any) -> bool:
    return np.issubdtype(value.dtype, np.inexact) and value.dtype not in DOUBLES
