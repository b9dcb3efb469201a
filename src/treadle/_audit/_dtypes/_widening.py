"""Where values of low precision are widened without anybody saying so, and what is computed wide.

JAX widens the narrower operand of two. Whether a conversion is one of these or the user's own is
read off the functions that made it and off what it meets: a promotion is met by a wide operand at
once, a cast of JAX's own inside of a sum is not.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core as jex_core

from .._private import is_backward, traceback_of
from .._source import Place, path_frames, user_place
from ._facts import Facts, Path
from ._promotions import is_models, is_told

MOVES = frozenset(
    {
        "broadcast_in_dim",
        "reshape",
        "squeeze",
        "expand_dims",
        "transpose",
        "slice",
        "dynamic_slice",
        "gather",
        "rev",
        "split",
        "unstack",
        "copy",
        "copy_p",
        "stop_gradient",
        "sharding_constraint",
        "device_put",
        "optimization_barrier",
        "reduce_precision",
        "pvary",
        "pcast",
        "name",
    }
)
"""Primitives that compute nothing."""

_JOINS = frozenset({"concatenate", "select_n", "dynamic_update_slice", "scatter", "pad"})


class Event(NamedTuple):
    """Something is widened.

    Attributes:
        place: The user's line.
        low: The dtype and shape of what is widened.
        wide: The dtype that it is widened to.
    """

    place: Place
    low: str
    wide: str


class Fact(NamedTuple):
    """What is known of a value.

    Attributes:
        kind: `"low"`: of low precision, and what came into the program. `"cast"`: wide because
            somebody said so. `"waiting"`: just widened by JAX, to meet something wide.
            `"silent"`: wide because something of low precision met something wide.
        events: Where it was widened.
        size: How many elements it has, broadcasting aside.
        direct: Whether nothing was computed since it was cast, or since it came in.
    """

    kind: str
    events: frozenset[Event] = frozenset()
    size: int = 0
    direct: bool = False


@dataclasses.dataclass
class Widened:
    """One line at which something is widened, and what comes of it.

    Attributes:
        event: What is widened, and where.
        products: The lines of the matrix products and convolutions that are computed wide.
        mixed: Whether one of them takes operands of two dtypes.
    """

    event: Event
    products: list[Place]
    mixed: bool = False


def widened(closed: Any) -> list[Widened]:
    """Everything that is widened silently, and then goes into a product."""
    search = _Search()
    jaxpr = closed.jaxpr
    given = [
        Fact("low", size=var.aval.size, direct=True) if _is_low(var) else None
        for var in jaxpr.invars
    ]
    search.run(closed, given)
    return list(search.found.values())


def _width(atom: Any) -> int:
    """Bytes of a floating number; 0 of anything else."""
    dtype = getattr(atom.aval, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return 0
    return dtype.itemsize


def _is_low(atom: Any) -> bool:
    return 0 < _width(atom) < 4


def _is_wide(atom: Any) -> bool:
    return _width(atom) >= 4 and not getattr(atom.aval, "weak_type", False)


def _text(atom: Any) -> str:
    return f"{atom.aval.dtype}{list(atom.aval.shape)}"


class _Search(Facts[Fact]):
    """Follows values of low precision, and what they are widened to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[Event, Widened] = {}
        self._places: dict[tuple[int, ...], Place | None] = {}
        self._meant: set[Any] = set()

    def matters(self, equation: Any) -> bool:
        return any(_is_low(atom) for atom in (*equation.invars, *equation.outvars))

    def place(self, path: Path) -> Hashable:
        key = tuple(id(each) for each in path)
        if key not in self._places:
            self._places[key] = user_place(path)
        return self._places[key]

    def constant(self, value: Any, path: Path) -> Fact | None:
        return None

    def join(self, one: Fact, other: Fact) -> Fact:
        order = ("low", "cast", "waiting", "silent")
        kind = max(one.kind, other.kind, key=order.index)
        return Fact(
            kind, one.events | other.events, max(one.size, other.size), one.direct and other.direct
        )

    def primitive(
        self, equation: Any, inputs: Sequence[Fact | None], path: Path
    ) -> Sequence[Fact | None]:
        name = equation.primitive.name
        outs = equation.outvars
        if name in MOVES:
            return self._moved(equation, inputs)
        if name == "convert_element_type":
            return [self._converted(equation, inputs[0], path)]
        if _is_product(equation):
            return [self._product(equation, inputs, path)]
        if not any(_is_wide(out) for out in outs):
            return [None] * len(outs)
        fact = self._met(equation, inputs)
        return [
            None if fact is None or not _is_wide(out) else fact._replace(size=out.aval.size)
            for out in outs
        ]

    def _moved(self, equation: Any, inputs: Sequence[Fact | None]) -> list[Fact | None]:
        if len(inputs) == len(equation.outvars):
            return list(inputs)
        fact = inputs[0]
        return [
            None if fact is None else fact._replace(size=min(fact.size, out.aval.size))
            for out in equation.outvars
        ]

    def _converted(self, equation: Any, fact: Fact | None, path: Path) -> Fact | None:
        source, out = equation.invars[0], equation.outvars[0]
        if not _is_wide(out):
            return None
        if not _is_low(source):
            return fact
        size = source.aval.size
        found = path_frames(path)
        if is_backward(equation) or is_told(found) or not is_models(found):
            return Fact("cast", size=size, direct=True)
        place = self.place(path)
        if not isinstance(place, Place):
            return Fact("cast", size=size, direct=True)
        event = Event(place, _text(source), str(out.aval.dtype))
        came_in = fact is not None and fact.direct
        return Fact("waiting", frozenset({event}), size, came_in)

    def _met(self, equation: Any, inputs: Sequence[Fact | None]) -> Fact | None:
        """What comes of operands that meet, element by element or joined."""
        known = [fact for fact in inputs if fact is not None and fact.kind != "low"]
        silent = [fact for fact in known if fact.kind == "silent"]
        if silent:
            return Fact("silent", frozenset().union(*(fact.events for fact in silent)))
        waiting = [fact for fact in known if fact.kind == "waiting"]
        others = [
            (atom, fact)
            for atom, fact in zip(equation.invars, inputs, strict=True)
            if _width(atom) >= 4 and (fact is None or fact.kind != "waiting")
        ]
        if not others and len(waiting) < 2:
            # Nothing was met: a cast of JAX's own, before a sum.
            return Fact("cast") if known else None
        joins = equation.primitive.name in _JOINS
        events = frozenset[Event]().union(
            *(fact.events for fact in waiting if joins or _is_widened(fact, others))
        )
        if events:
            return Fact("silent", events)
        return Fact("cast") if any(fact.kind == "cast" for fact in known) else None

    def _product(self, equation: Any, inputs: Sequence[Fact | None], path: Path) -> Fact | None:
        operands = list(zip(equation.invars[:2], inputs[:2], strict=True))
        wide = [(atom, fact) for atom, fact in operands if _width(atom) >= 4]
        lows = [atom for atom, _ in operands if _is_low(atom)]
        silent = [fact for _, fact in wide if fact is not None and fact.kind == "silent"]
        out = equation.outvars[0]
        if not wide:
            # Two narrow ones that differ, or sums in float32 that were asked for.
            differ = len({atom.aval.dtype for atom in lows}) > 1
            events = self._mixed(equation, path) if differ else frozenset[Event]()
        elif silent:
            events = frozenset[Event]().union(*(fact.events for fact in silent))
        else:
            waiting = [fact for _, fact in wide if fact is not None and fact.kind == "waiting"]
            rest = [fact for _, fact in wide if fact is None or fact.kind != "waiting"]
            meant = any(fact is not None and fact.kind == "cast" and fact.direct for fact in rest)
            events = frozenset[Event]().union(*(fact.events for fact in waiting))
            if lows:
                events |= self._mixed(equation, path)
            if meant:
                # Older JAX does not tell products of the backward pass from these.
                self._meant.add(traceback_of(equation))
            if meant or (waiting and not rest and len(waiting) < 2):
                events = frozenset[Event]()
        for event in events:
            own = not silent and event.place == self.place(path) and bool(lows)
            self._note(event, self.place(path), mixed=own)
        if not _is_wide(out):
            return None
        if events:
            return Fact("silent", events, out.aval.size)
        return Fact("cast", size=out.aval.size) if lows or any(f for _, f in wide) else None

    def _mixed(self, equation: Any, path: Path) -> frozenset[Event]:
        """A product of operands of two dtypes: the narrower one is widened inside of it."""
        place = self.place(path)
        if is_backward(equation) or traceback_of(equation) in self._meant:
            return frozenset()
        if not isinstance(place, Place) or not is_models(path_frames(path)):
            return frozenset()
        low = next(atom for atom in equation.invars if _is_low(atom))
        return frozenset({Event(place, _text(low), str(equation.outvars[0].aval.dtype))})

    def _note(self, event: Event, place: Any, *, mixed: bool) -> None:
        found = self.found.setdefault(event, Widened(event, []))
        found.mixed = found.mixed or mixed
        if isinstance(place, Place) and place not in found.products:
            found.products.append(place)


def _is_widened(fact: Fact, others: list[tuple[Any, Fact | None]]) -> bool:
    """Whether it is this operand that makes a value wide which would not be.

    A small one that meets a large one, such as a scale, only goes along. So does a parameter that
    meets what was cast to be wide.
    """
    for atom, other in others:
        size = 1 if isinstance(atom, jex_core.Literal) else atom.aval.size
        size = min(size, other.size) if other is not None and other.size else size
        cast = other is not None and other.kind == "cast"
        if fact.size < size or (cast and fact.size == size and fact.direct):
            return False
    return True


def _is_product(equation: Any) -> bool:
    """Whether an equation is a matrix product or a convolution, and not one of two vectors."""
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), (batched, _) = equation.params["dimension_numbers"]
        inside = len(contracted) + len(batched)
        return any(len(atom.aval.shape) > inside for atom in equation.invars[:2])
    return name in ("conv_general_dilated", "ragged_dot", "ragged_dot_general")
