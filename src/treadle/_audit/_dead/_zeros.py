"""What is zero whatever comes in, and what new values depend on once zeros are taken out.

A gradient that is structurally zero is made of zeros by JAX, and then clipped, averaged, scaled and
added to weights that decay. So zeros are followed: what a zero is multiplied by does not count, nor
what it is added to.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core as jex_core

from .._private import is_backward
from ._derivatives import is_zero_of_derivative


class Known(NamedTuple):
    """What is known of a value.

    Attributes:
        number: What every element of it is; `None` if that depends.
        depends: The inputs it depends on, as bits.
        core: The same, without those that only scale it as a whole, or decide whether it counts: a
            clip factor, the norm of all gradients, whether they are finite.
        carries: The inputs that it is an update of, element by element.
        same: The input that it is, unchanged.
        uniform: Whether it is one number, repeated.
        cut: Whether a gradient that is structurally zero went into it.
    """

    number: Any = None
    depends: int = 0
    core: int = 0
    carries: int = 0
    same: int | None = None
    uniform: bool = False
    cut: bool = False

    @property
    def is_zero(self) -> bool:
        """Whether every element of it is zero, always."""
        return self.number is not None and self.number == 0


_UNKNOWN = Known()

_MOVES = frozenset(
    {
        "all_gather",
        "all_to_all",
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "copy",
        "copy_p",
        "device_put",
        "dynamic_slice",
        "dynamic_update_slice",
        "expand_dims",
        "mesh_cast",
        "pad",
        "pbroadcast",
        "pcast",
        "ppermute",
        "pvary",
        "reduce_precision",
        "reshape",
        "reshard",
        "rev",
        "sharding_constraint",
        "slice",
        "squeeze",
        "stack",
        "stop_gradient",
        "tile",
        "transpose",
    }
)
"""What only moves elements: the same number in all of its operands is the number that comes out."""

_SAME = frozenset(
    {
        "copy",
        "copy_p",
        "device_put",
        "mesh_cast",
        "name",
        "pbroadcast",
        "pcast",
        "pvary",
        "reshard",
        "sharding_constraint",
        "stop_gradient",
    }
)
"""What gives what it takes."""

_KEEPS_ZERO = frozenset(
    {
        "abs",
        "asin",
        "asinh",
        "atan",
        "atanh",
        "cbrt",
        "ceil",
        "conj",
        "cummax",
        "cummin",
        "cumsum",
        "erf",
        "expm1",
        "fft",
        "floor",
        "imag",
        "log1p",
        "neg",
        "pmax",
        "pmin",
        "psum",
        "psum2",
        "psum_invariant",
        "psum_scatter",
        "real",
        "reduce_max",
        "reduce_min",
        "reduce_scatter",
        "reduce_sum",
        "reduce_window_max",
        "reduce_window_min",
        "reduce_window_sum",
        "round",
        "scatter",
        "scatter-add",
        "scatter-max",
        "scatter-min",
        "scatter-sub",
        "scatter_add",
        "scatter_max",
        "scatter_min",
        "scatter_sub",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "tan",
        "tanh",
    }
)
"""What makes zeros of zeros."""

_PRODUCTS = frozenset(
    {"mul", "dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"}
)
"""What is zero if one of its operands is."""

_OF_THE_FIRST = frozenset(
    {"div", "dynamic_slice", "gather", "select_and_scatter_add", "scatter-mul", "scatter_mul"}
)
"""What is zero if the first of its operands is."""

_WRITES = frozenset({"addupdate", "swap"})
"""What changes an array in place."""

_SUMS = frozenset({"add", "add_any", "sub"})

_ELEMENTWISE = (
    frozenset(
        {
            "clamp",
            "div",
            "integer_pow",
            "max",
            "min",
            "mul",
            "nextafter",
            "optimization_barrier",
            "pow",
            "rem",
            "rsqrt",
            "select_n",
        }
    )
    | _SUMS
    | _KEEPS_ZERO
    | _MOVES
    | _SAME
)
"""What may be a step of an update, where shapes stay as they are."""

_NUMBERS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "add": lambda a, b: a + b,
    "add_any": lambda a, b: a + b,
    "and": lambda a, b: int(a) & int(b),
    "div": lambda a, b: a / b,
    "eq": lambda a, b: a == b,
    "exp": math.exp,
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
    "is_finite": math.isfinite,
    "le": lambda a, b: a <= b,
    "log": math.log,
    "lt": lambda a, b: a < b,
    "max": max,
    "min": min,
    "mul": lambda a, b: a * b,
    "ne": lambda a, b: a != b,
    "neg": lambda a: -a,
    "or": lambda a, b: int(a) | int(b),
    "pow": lambda a, b: a**b,
    "rsqrt": lambda a: 1 / math.sqrt(a),
    "sqrt": math.sqrt,
    "square": lambda a: a * a,
    "sub": lambda a, b: a - b,
}
"""Sums of numbers that are known."""


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
            return known.get(atom, _UNKNOWN)

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
        return Known(number, uniform=True) if _is_number(number) else Known(uniform=True)

    def _equation(self, equation: Any, inputs: list[Known], backward: bool) -> list[Known]:
        backward = backward or is_backward(equation)
        if backward:
            self.read |= _all(each.depends for each in inputs)
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
        elif depends != self.push and name in _PRODUCTS:
            depends &= ~self.push
        return known._replace(depends=depends, core=depends, cut=False)

    def _other(self, equation: Any, inputs: list[Known], backward: bool) -> list[Known]:
        name, count = equation.primitive.name, len(equation.outvars)
        program = _program(equation, inputs)
        if program is not None:
            return self._run(program, inputs, backward=backward)
        if name in _WRITES:
            self.writes = True
        if name == "optimization_barrier":
            return inputs
        if name == "split":
            return [inputs[0]._replace(same=None, carries=0)] * count
        if count == len(inputs) > 1 and name in _KEEPS_ZERO:
            return [each if each.is_zero else _mixed([each]) for each in inputs]
        return [self._plain(equation, inputs, backward)] * count

    def _plain(self, equation: Any, inputs: list[Known], backward: bool) -> Known:
        name = equation.primitive.name
        if len(equation.outvars) != 1:
            return _mixed(inputs)
        found = self._number(equation, inputs)
        if found is not None:
            return found
        if name in _SAME or (name in _UNCHANGED and _is_alike(equation)):
            return inputs[0]
        if name in _SUMS:
            found = _sum(equation, inputs)
        elif name == "mul":
            found = _product(equation, inputs)
        elif name == "div" and _is(inputs[1], 1) and _has_shape(equation, 0):
            found = inputs[0]
        elif name == "select_n":
            found = _selected(equation, inputs, backward)
        if found is not None:
            return found
        return _computed(equation, inputs, backward)

    def _number(self, equation: Any, inputs: list[Known]) -> Known | None:
        """What comes out, where every element of it is one number."""
        name = equation.primitive.name
        zeros = [each for each in inputs if each.is_zero]
        if name in _PRODUCTS and zeros:
            return _zero(equation, any(each.cut for each in zeros))
        if name in _OF_THE_FIRST and inputs[0].is_zero:
            return _zero(equation, inputs[0].cut)
        if name == "integer_pow" and inputs[0].is_zero and equation.params["y"] > 0:
            return _zero(equation, inputs[0].cut)
        if name in ("gather", "dynamic_slice") and inputs[0].number is not None:
            return inputs[0]
        if name.startswith("scatter") and name in _KEEPS_ZERO:
            parts = (inputs[0], inputs[2]) if len(inputs) == 3 else tuple(inputs)
            if all(each.is_zero for each in parts):
                return _zero(equation, any(each.cut for each in parts))
            return None
        if name == "dynamic_update_slice":
            return _agreed(inputs[:2])
        if name in _MOVES and inputs:
            found = _agreed(inputs)
            if found is None:
                return None
            if _is_new(equation) and found.is_zero and is_zero_of_derivative(equation):
                return found._replace(cut=True)
            return found
        if name in _KEEPS_ZERO and inputs and len(zeros) == len(inputs):
            return _zero(equation, any(each.cut for each in inputs))
        if name in _NUMBERS and all(each.number is not None for each in inputs):
            return _calculated(equation, inputs)
        return None

    # -- branches and loops -------------------------------------------------------------------

    def _cond(self, equation: Any, inputs: list[Known], backward: bool) -> list[Known]:
        which, *operands = inputs
        branches = equation.params["branches"]
        if which.number is not None:
            branches = [branches[min(max(int(which.number), 0), len(branches) - 1)]]
        cases = [self._run(branch, operands, backward=backward) for branch in branches]
        return [_joined(list(each), which, backward) for each in zip(*cases, strict=True)]

    def _scan(self, equation: Any, inputs: list[Known], backward: bool) -> list[Known]:
        params = equation.params
        first, carried = params["num_consts"], params["num_carry"]
        consts, carry = inputs[:first], inputs[first : first + carried]
        # An array that is a row of one that came in is not that one.
        rows = [each._replace(same=None) for each in inputs[first + carried :]]
        while True:
            outs = self._run(params["jaxpr"], [*consts, *carry, *rows], backward=backward)
            new = [
                _joined([old, out], None, backward)
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
            new = [
                _joined([old, out], None, backward) for old, out in zip(carry, outs, strict=True)
            ]
            if new == carry:
                break
            carry = new
        # How often it runs depends on what is tested.
        tests = self._run(params["cond_jaxpr"], [*of_test, *carry], backward=backward)
        return [_joined([each], tests[0], backward) for each in carry]


# -- one equation ----------------------------------------------------------------------------------


_UNCHANGED = frozenset({"reshape", "convert_element_type", "broadcast_in_dim", "reduce_precision"})


def _all(masks: Any) -> int:
    total = 0
    for mask in masks:
        total |= mask
    return total


def _is_one(atom: Any) -> bool:
    return getattr(atom.aval, "size", 0) == 1


def _is_plain(value: Any) -> bool:
    """Whether it is a number, not a key or something that JAX keeps for itself."""
    return isinstance(value, (bool, int, float, np.generic)) or isinstance(
        getattr(value, "dtype", None), np.dtype
    )


def _is_number(number: Any) -> bool:
    return isinstance(number, (bool, int, float)) and math.isfinite(number)


def _is(known: Known, number: int) -> bool:
    return known.number is not None and known.number == number


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(atom.aval.shape)


def _has_shape(equation: Any, at: int) -> bool:
    """Whether an operand has the shape and dtype of what comes out."""
    atom, out = equation.invars[at], equation.outvars[0]
    return _shape(atom) == _shape(out) and atom.aval.dtype == out.aval.dtype


def _is_alike(equation: Any) -> bool:
    return len(equation.invars) == 1 and _has_shape(equation, 0)


def _is_new(equation: Any) -> bool:
    """Whether it is made of a number in the code."""
    return all(isinstance(atom, jex_core.Literal) for atom in equation.invars)


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


def _zero(equation: Any, cut: bool) -> Known:
    # The gradient of one number is a zero in the program's text, and nobody calculates with that.
    return Known(0.0, uniform=True, cut=cut or _is_new(equation))


def _agreed(inputs: Sequence[Known]) -> Known | None:
    numbers = {each.number for each in inputs}
    if len(numbers) != 1 or None in numbers:
        return None
    depends = _all(each.depends for each in inputs)
    cut = any(each.cut for each in inputs)
    return Known(inputs[0].number, depends, depends, uniform=True, cut=cut)


def _calculated(equation: Any, inputs: Sequence[Known]) -> Known:
    try:
        number = _NUMBERS[equation.primitive.name](*(each.number for each in inputs))
    except (ArithmeticError, ValueError):
        number = math.nan
    if number == 0:
        return _zero(equation, any(each.cut for each in inputs))
    depends = _all(each.depends for each in inputs)
    return Known(number if _is_number(number) else None, depends, depends, uniform=True)


def _mixed(inputs: Sequence[Known]) -> Known:
    depends = _all(each.depends for each in inputs)
    return Known(None, depends, depends, cut=any(each.cut for each in inputs))


def _carried(equation: Any, at: int, known: Known) -> int:
    """What an operand carries on, if it has as many elements as what comes out."""
    return known.carries if equation.invars[at].aval.size == equation.outvars[0].aval.size else 0


def _computed(equation: Any, inputs: Sequence[Known], backward: bool) -> Known:
    """Whatever else comes out."""
    known = _mixed(inputs)
    sizes = [getattr(atom.aval, "size", 0) for atom in equation.invars]
    size = equation.outvars[0].aval.size
    if size == 1 and max(sizes, default=0) > 1:
        # A norm of all gradients is no gradient.
        known = known._replace(cut=False)
    if equation.primitive.name not in _ELEMENTWISE:
        return known._replace(uniform=size == 1)
    carries = _all(_carried(equation, at, each) for at, each in enumerate(inputs))
    core = _all(each.core for each in inputs)
    uniform = all(each.uniform for each in inputs) or size == 1
    if equation.primitive.name in ("div", "pow") and not backward:
        top, bottom = inputs
        if bottom.uniform and top.carries and not top.uniform:
            return Known(None, known.depends, top.core, carries, None, False, top.cut)
    if equation.primitive.name in ("gather", "scatter", "concatenate", "stack", "pad"):
        uniform = False
    return Known(None, known.depends, core, carries, None, uniform, known.cut)


def _sum(equation: Any, inputs: Sequence[Known]) -> Known | None:
    """A sum one part of which is zero."""
    left, right = inputs
    if right.is_zero and _has_shape(equation, 0):
        return left._replace(cut=left.cut or right.cut)
    if left.is_zero and _has_shape(equation, 1):
        cut = left.cut or right.cut
        if equation.primitive.name == "sub":
            return right._replace(same=None, number=None, cut=cut)
        return right._replace(cut=cut)
    return None


def _product(equation: Any, inputs: Sequence[Known]) -> Known | None:
    """A product one part of which is a number for all elements of the other."""
    for at, (one, other) in enumerate(((inputs[0], inputs[1]), (inputs[1], inputs[0]))):
        if not _has_shape(equation, at):
            continue
        if _is(other, 1):
            return one
        if other.uniform and one.carries and not one.uniform:
            depends = one.depends | other.depends
            return Known(None, depends, one.core, one.carries, None, False, one.cut)
    return None


def _selected(equation: Any, inputs: Sequence[Known], backward: bool) -> Known:
    which, *cases = inputs
    if which.number is not None:
        return cases[min(max(int(which.number), 0), len(cases) - 1)]
    joined = _joined(cases, which if which.uniform else None, backward)
    if which.uniform or joined.number is not None:
        return joined
    if joined.same is not None:
        return joined
    return joined._replace(depends=joined.depends | which.depends, core=joined.core | which.core)


def _joined(cases: Sequence[Known], which: Known | None, backward: bool) -> Known:
    """One of several cases.

    Args:
        cases: What it may be.
        which: What decides; `None` if it stays the same.
        backward: Whether it is a gradient.
    """
    number = cases[0].number if len({each.number for each in cases}) == 1 else None
    same = cases[0].same if len({each.same for each in cases}) == 1 else None
    cut = any(each.cut for each in cases)
    uniform = all(each.uniform for each in cases)
    depends = _all(each.depends for each in cases)
    if number is not None:
        return Known(number, depends, depends, uniform=uniform, cut=cut)
    core = _all(each.core for each in cases)
    carries = _all(each.carries for each in cases)
    if which is not None and same is None:
        depends |= which.depends
        # Whether an update counts is no update. Between numbers, it is the value.
        if backward or not carries:
            core |= which.depends
    return Known(None, depends, core, carries, same, uniform, cut)
