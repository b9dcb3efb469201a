"""Following what is known of values through a program and the programs inside of it."""

import abc
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar

from jax.extend import core as jex_core

from ..._jaxpr import inner_jaxprs

F = TypeVar("F", bound=Hashable)
Path = tuple[Any, ...]
"""An equation behind all that enclose it."""


class Facts(abc.ABC, Generic[F]):
    """Follows facts about values, `None` where nothing is known.

    Loops are run until what they hand on stays the same; branches are joined. A program that is
    called several times with the same facts at the same line is followed once.
    """

    def __init__(self) -> None:
        self._done: dict[Hashable, list[F | None]] = {}
        self._matter: dict[int, bool] = {}

    @abc.abstractmethod
    def matters(self, equation: Any) -> bool:
        """Whether an equation, inner programs aside, can make a fact out of nothing."""

    @abc.abstractmethod
    def primitive(
        self, equation: Any, inputs: Sequence[F | None], path: Path
    ) -> Sequence[F | None]:
        """The facts of what one equation makes."""

    @abc.abstractmethod
    def constant(self, value: Any, path: Path) -> F | None:
        """The fact of a constant of the program, or of a number in it."""

    @abc.abstractmethod
    def join(self, one: F, other: F) -> F:
        """What is known of a value that is either of two."""

    def is_one(self, equation: Any, path: Path) -> bool:
        """Whether an equation with an inner program is looked at as one."""
        del equation, path
        return False

    def run(self, program: Any, inputs: Sequence[F | None], path: Path = ()) -> list[F | None]:
        """The facts of what a program gives, from those of what goes in."""
        jaxpr = getattr(program, "jaxpr", program)
        if not any(inputs) and not self._can_matter(jaxpr):
            return [None] * len(jaxpr.outvars)
        key = id(jaxpr), tuple(inputs), self.place(path)
        if key not in self._done:
            self._done[key] = self._run(program, jaxpr, inputs, path)
        return self._done[key]

    @abc.abstractmethod
    def place(self, path: Path) -> Hashable:
        """What tells calls of one program apart."""

    def _can_matter(self, jaxpr: Any) -> bool:
        if id(jaxpr) not in self._matter:
            self._matter[id(jaxpr)] = any(
                self.matters(equation)
                or any(
                    self._can_matter(inner)
                    for value in equation.params.values()
                    for inner in inner_jaxprs(value)
                )
                for equation in jaxpr.eqns
            )
        return self._matter[id(jaxpr)]

    def _run(
        self, program: Any, jaxpr: Any, inputs: Sequence[F | None], path: Path
    ) -> list[F | None]:
        known: dict[Any, F | None] = dict(zip(jaxpr.invars, inputs, strict=True))
        values = dict(zip(jaxpr.constvars, getattr(program, "consts", ()), strict=False))

        def read(atom: Any, here: Path) -> F | None:
            if isinstance(atom, jex_core.Literal):
                return self.constant(atom, here)
            if atom in values and atom not in known:
                known[atom] = self.constant(atom, here)
            return known.get(atom)

        for equation in jaxpr.eqns:
            here = (*path, equation)
            given = [read(atom, here) for atom in equation.invars]
            known.update(zip(equation.outvars, self._equation(equation, given, here), strict=True))
        return [read(atom, path) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[F | None], path: Path) -> Sequence[F | None]:
        name = equation.primitive.name
        if name == "cond":
            return self._cond(equation, inputs, path)
        if name == "scan":
            return self._scan(equation, inputs, path)
        if name == "while":
            return self._while(equation, inputs, path)
        inner = [
            each
            for value in equation.params.values()
            if isinstance(value, (jex_core.Jaxpr, jex_core.ClosedJaxpr))
            for each in (value,)
        ]
        if len(inner) == 1 and not self.is_one(equation, path):
            jaxpr = getattr(inner[0], "jaxpr", inner[0])
            fits = len(jaxpr.invars) == len(inputs)
            if fits and len(jaxpr.outvars) == len(equation.outvars):
                return self.run(inner[0], inputs, path)
        return self.primitive(equation, inputs, path)

    def _either(self, one: F | None, other: F | None) -> F | None:
        if one is None or other is None:
            return other if one is None else one
        return self.join(one, other)

    def _cond(self, equation: Any, inputs: list[F | None], path: Path) -> list[F | None]:
        found: list[F | None] | None = None
        for branch in equation.params["branches"]:
            outs = self.run(branch, inputs[1:], path)
            if found is None:
                found = outs
            else:
                found = [self._either(a, b) for a, b in zip(found, outs, strict=True)]
        return found or []

    def _scan(self, equation: Any, inputs: list[F | None], path: Path) -> list[F | None]:
        params = equation.params
        first, carried = params["num_consts"], params["num_carry"]
        carry = inputs[first : first + carried]
        while True:
            outs = self.run(
                params["jaxpr"], [*inputs[:first], *carry, *inputs[first + carried :]], path
            )
            new = [self._either(a, b) for a, b in zip(carry, outs[:carried], strict=True)]
            if new == carry:
                return [*new, *outs[carried:]]
            carry = new

    def _while(self, equation: Any, inputs: list[F | None], path: Path) -> list[F | None]:
        params = equation.params
        tested, held = params["cond_nconsts"], params["body_nconsts"]
        carry = inputs[tested + held :]
        while True:
            outs = self.run(params["body_jaxpr"], [*inputs[tested : tested + held], *carry], path)
            new = [self._either(a, b) for a, b in zip(carry, outs, strict=True)]
            if new == carry:
                self.run(params["cond_jaxpr"], [*inputs[:tested], *carry], path)
                return new
            carry = new
