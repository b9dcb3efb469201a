"""What is zero whatever comes in, and what new values depend on once zeros are taken out.

A gradient that is structurally zero is made of zeros by JAX, and then clipped, averaged, scaled and
added to weights that decay. So zeros are followed: what a zero is multiplied by does not count, nor
what it is added to.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core as jex_core

from .._private import is_backward
from ._equation import KEEPS_ZERO, PRODUCTS, WRITES, plain
from ._known import UNKNOWN, Known, all_of, is_number, joined, mixed


class Zeros:
    """Follows zeros through a program.

    Args:
        closed: The program.
        zero: Inputs that are taken to be zero.

    Attributes:
        outputs: What is known of each output.
        read: The inputs that a backward pass depends on, as bits.
        constants: The bit that stands for arrays which are part of the program.
        push: The bit that stands for gradients which are the same in every step, and not zero.
        writes: Whether it changes arrays in place, which is not followed.
    """

    def __init__(self, closed: Any, zero: frozenset[int] = frozenset()):
        jaxpr = closed.jaxpr
        count = len(jaxpr.invars)
        self.read = 0
        self.writes = False
        self.constants, self.push = 1 << count, 1 << count + 1
        self._known: dict[Any, tuple[list[Known], int]] = {}
        given = [
            Known(0.0) if at in zero else Known(None, 1 << at, 1 << at, 1 << at, at, _is_one(var))
            for at, var in enumerate(jaxpr.invars)
        ]
        self.outputs = self._run(closed, given, backward=False)

    # -- programs -----------------------------------------------------------------------------

    def _run(self, program: Any, given: Sequence[Known], *, backward: bool) -> list[Known]:
        jaxpr = getattr(program, "jaxpr", program)
        place = (id(jaxpr), backward, tuple(given))
        if place in self._known:
            outs, read = self._known[place]
            self.read |= read
            return outs
        before, self.read = self.read, 0
        known: dict[Any, Known] = dict(zip(jaxpr.invars, given, strict=True))
        consts = getattr(program, "consts", ())
        for var, value in zip(jaxpr.constvars, consts, strict=False):
            known[var] = self._constant(value)

        def look(atom: Any) -> Known:
            if isinstance(atom, jex_core.Literal):
                return self._constant(atom.val)
            return known.get(atom, UNKNOWN)

        for equation in jaxpr.eqns:
            inputs = [look(atom) for atom in equation.invars]
            known.update(
                zip(equation.outvars, self._equation(equation, inputs, backward), strict=True)
            )
        outs = [look(atom) for atom in jaxpr.outvars]
        self._known[place] = outs, self.read
        self.read |= before
        return outs

    def _constant(self, value: Any) -> Known:
        # Not larger ones: data that somebody tries a step with may well be zeros.
        if getattr(value, "size", 1) != 1 or not _is_plain(value):
            return Known(None, self.constants, self.constants)
        number = np.asarray(value).reshape(()).item()
        return Known(number, uniform=True) if is_number(number) else Known(uniform=True)

    def _equation(self, equation: Any, inputs: list[Known], backward: bool) -> list[Known]:
        backward = backward or is_backward(equation)
        if backward:
            self.read |= all_of(each.depends for each in inputs)
        name = equation.primitive.name
        if name == "cond":
            outs = self._cond(equation, inputs, backward)
        elif name == "scan":
            outs = self._scan(equation, inputs, backward)
        elif name == "while":
            outs = self._while(equation, inputs, backward)
        else:
            outs = self._other(equation, inputs, backward)
        return [self._gradient(name, each) for each in outs] if backward else outs

    def _gradient(self, name: str, known: Known) -> Known:
        """What comes out of an equation of a backward pass."""
        if known.is_zero:
            return known._replace(cut=True)
        depends = known.depends
        if not depends:
            depends = self.push
        elif depends != self.push and name in PRODUCTS:
            depends &= ~self.push
        return known._replace(depends=depends, core=depends, cut=False)

    def _other(self, equation: Any, inputs: list[Known], backward: bool) -> list[Known]:
        name, count = equation.primitive.name, len(equation.outvars)
        program = _program(equation, inputs)
        if program is not None:
            return self._run(program, inputs, backward=backward)
        if name in WRITES:
            self.writes = True
        if name == "optimization_barrier":
            return inputs
        if name == "split":
            return [inputs[0]._replace(same=None, carries=0)] * count
        if count == len(inputs) > 1 and name in KEEPS_ZERO:
            return [each if each.is_zero else mixed([each]) for each in inputs]
        return [plain(equation, inputs, backward)] * count

    # -- branches and loops -------------------------------------------------------------------

    def _cond(self, equation: Any, inputs: list[Known], backward: bool) -> list[Known]:
        which, *operands = inputs
        branches = equation.params["branches"]
        if which.number is not None:
            branches = [branches[min(max(int(which.number), 0), len(branches) - 1)]]
        cases = [self._run(branch, operands, backward=backward) for branch in branches]
        return [joined(list(each), which, backward) for each in zip(*cases, strict=True)]

    def _scan(self, equation: Any, inputs: list[Known], backward: bool) -> list[Known]:
        params = equation.params
        first, carried = params["num_consts"], params["num_carry"]
        consts, carry = inputs[:first], inputs[first : first + carried]
        # An array that is a row of one that came in is not that one.
        rows = [each._replace(same=None) for each in inputs[first + carried :]]
        while True:
            outs = self._run(params["jaxpr"], [*consts, *carry, *rows], backward=backward)
            new = [
                joined([old, out], None, backward)
                for old, out in zip(carry, outs[:carried], strict=True)
            ]
            if new == carry:
                break
            carry = new
        return [*new, *(each._replace(same=None, carries=0) for each in outs[carried:])]

    def _while(self, equation: Any, inputs: list[Known], backward: bool) -> list[Known]:
        params = equation.params
        tested, held = params["cond_nconsts"], params["body_nconsts"]
        of_test, of_body = inputs[:tested], inputs[tested : tested + held]
        carry = inputs[tested + held :]
        while True:
            outs = self._run(params["body_jaxpr"], [*of_body, *carry], backward=backward)
            new = [joined([old, out], None, backward) for old, out in zip(carry, outs, strict=True)]
            if new == carry:
                break
            carry = new
        # How often it runs depends on what is tested.
        tests = self._run(params["cond_jaxpr"], [*of_test, *carry], backward=backward)
        return [joined([each], tests[0], backward) for each in carry]


def _program(equation: Any, inputs: list[Known]) -> Any:
    """The program inside of an equation that takes what it takes; `None` without one."""
    found = []
    for value in equation.params.values():
        for program in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(program, (jex_core.ClosedJaxpr, jex_core.Jaxpr)):
                found.append(program)
    if len(found) != 1:
        return None
    jaxpr = getattr(found[0], "jaxpr", found[0])
    fits = len(jaxpr.invars) == len(inputs) and len(jaxpr.outvars) == len(equation.outvars)
    # A kernel is given memory, not values.
    values = all(getattr(var.aval, "inner_aval", None) is None for var in jaxpr.invars)
    return found[0] if fits and values else None


def _is_plain(value: Any) -> bool:
    """Whether it is a number, not a key or something that JAX keeps for itself."""
    return isinstance(value, (bool, int, float, np.generic)) or isinstance(
        getattr(value, "dtype", None), np.dtype
    )


def _is_one(atom: Any) -> bool:
    return getattr(atom.aval, "size", 0) == 1
