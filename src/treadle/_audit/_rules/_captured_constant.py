"""`captured-constant`: a large array is part of the program, not an argument of it."""

from collections.abc import Iterator
from typing import Any

from jax.extend import core as jex_core

from ..._jaxpr import inner_jaxprs
from ..._units import binary
from .._audited import Audited
from .._captures import holder
from .._finding import Finding
from .._source import Place, path_frames, user_place
from ._base import Rule

_MOST = 2**20
"""Bytes of what one line captures."""

_TINY = 2**10
"""Bytes of an array that is not looked at."""


class CapturedConstant(Rule):
    """More than 1 MiB of arrays is captured by the function, and compiled into the program."""

    slug = "captured-constant"
    line = "donated"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each line that first uses such arrays."""
        captured = [each for each in constants(audited.program.jaxpr) if each[0].nbytes > _TINY]
        if sum(value.nbytes for value, _ in captured) <= _MOST:
            return
        found: dict[Place | None, list[Any]] = {}
        for value, path in captured:
            held = holder(path_frames(path), value)
            place = held.place if held is not None else user_place(path)
            found.setdefault(place or audited.program.place, []).append(value)
        for place, values in found.items():
            if sum(value.nbytes for value in values) <= _MOST:
                continue
            yield Finding(self.slug, "warning", _message(values), place, _FIX)

    def evidence(self, audited: Audited) -> str:
        """How much is captured."""
        return f"{binary(audited.figures.constant_bytes)} of constants"


_FIX = (
    "Hand it in as an argument. Inside of a module it is one already, where the module is an "
    "argument; with treadle, `step(state, batch, args=array)`."
)


def _message(values: list[Any]) -> str:
    total = sum(value.nbytes for value in values)
    kinds = ", ".join(dict.fromkeys(f"{value.dtype}{list(value.shape)}" for value in values))
    return (
        f"{binary(total)} ({kinds}) is captured and becomes part of the program: compiled in, "
        f"kept as long as the program is, and not to be exchanged without another one"
    )


def constants(closed: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Every array that is part of a program, once, with the way to where it is first used."""
    seen: set[int] = set()
    for value, path in _constants(closed, []):
        if hasattr(value, "nbytes") and id(value) not in seen:
            seen.add(id(value))
            yield value, path


def _constants(closed: Any, path: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    for value, var in zip(closed.consts, closed.jaxpr.constvars, strict=True):
        yield value, [*path, *_first_use(closed.jaxpr, var)]
    yield from _inside(closed.jaxpr, path)


def _inside(jaxpr: Any, path: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    for equation in jaxpr.eqns:
        for atom in equation.invars:
            if isinstance(atom, jex_core.Literal) and getattr(atom.val, "nbytes", 0) > _TINY:
                yield atom.val, [*path, equation]
        for value in equation.params.values():
            for program in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(program, jex_core.ClosedJaxpr):
                    yield from _constants(program, [*path, equation])
                elif isinstance(program, jex_core.Jaxpr):
                    yield from _inside(program, [*path, equation])


def _first_use(jaxpr: Any, var: Any) -> list[Any]:
    """The equation that first reads a variable, behind those that enclose it."""
    for equation in jaxpr.eqns:
        places = [at for at, atom in enumerate(equation.invars) if atom is var]
        if not places:
            continue
        inner = [each for value in equation.params.values() for each in inner_jaxprs(value)]
        for program in inner:
            # Of a `cond` or `while` not all programs take everything.
            at = places[0] - (len(equation.invars) - len(program.invars))
            if 0 <= at < len(program.invars):
                deeper = _first_use(program, program.invars[at])
                if deeper:
                    return [equation, *deeper]
        return [equation]
    return []
