"""What comes out of one equation: numbers that are known, zeros, or what it depends on."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core as jex_core

from ._derivatives import is_zero_of_derivative
from ._known import Known, all_of, is_number, joined, mixed

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

KEEPS_ZERO = frozenset(
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

PRODUCTS = frozenset(
    {"mul", "dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"}
)
"""What is zero if one of its operands is."""

_OF_THE_FIRST = frozenset(
    {"div", "dynamic_slice", "gather", "select_and_scatter_add", "scatter-mul", "scatter_mul"}
)
"""What is zero if the first of its operands is."""

WRITES = frozenset({"addupdate", "swap"})
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
    | KEEPS_ZERO
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

_UNCHANGED = frozenset({"reshape", "convert_element_type", "broadcast_in_dim", "reduce_precision"})


def plain(equation: Any, inputs: list[Known], backward: bool) -> Known:
    """What comes out of an equation without a program inside."""
    name = equation.primitive.name
    if len(equation.outvars) != 1:
        return mixed(inputs)
    found = _number(equation, inputs)
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


def _number(equation: Any, inputs: list[Known]) -> Known | None:
    """What comes out, where every element of it is one number."""
    name = equation.primitive.name
    zeros = [each for each in inputs if each.is_zero]
    if name in PRODUCTS and zeros:
        return _zero(equation, any(each.cut for each in zeros))
    if name in _OF_THE_FIRST and inputs[0].is_zero:
        return _zero(equation, inputs[0].cut)
    if name == "integer_pow" and inputs[0].is_zero and equation.params["y"] > 0:
        return _zero(equation, inputs[0].cut)
    if name in ("gather", "dynamic_slice") and inputs[0].number is not None:
        return inputs[0]
    if name.startswith("scatter") and name in KEEPS_ZERO:
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
    if name in KEEPS_ZERO and inputs and len(zeros) == len(inputs):
        return _zero(equation, any(each.cut for each in inputs))
    if name in _NUMBERS and all(each.number is not None for each in inputs):
        return _calculated(equation, inputs)
    return None


def _zero(equation: Any, cut: bool) -> Known:
    # The gradient of one number is a zero in the program's text, and nobody calculates with that.
    return Known(0.0, uniform=True, cut=cut or _is_new(equation))


def _agreed(inputs: Sequence[Known]) -> Known | None:
    numbers = {each.number for each in inputs}
    if len(numbers) != 1 or None in numbers:
        return None
    depends = all_of(each.depends for each in inputs)
    cut = any(each.cut for each in inputs)
    return Known(inputs[0].number, depends, depends, uniform=True, cut=cut)


def _calculated(equation: Any, inputs: Sequence[Known]) -> Known:
    try:
        number = _NUMBERS[equation.primitive.name](*(each.number for each in inputs))
    except (ArithmeticError, ValueError):
        number = math.nan
    if number == 0:
        return _zero(equation, any(each.cut for each in inputs))
    depends = all_of(each.depends for each in inputs)
    return Known(number if is_number(number) else None, depends, depends, uniform=True)


def _computed(equation: Any, inputs: Sequence[Known], backward: bool) -> Known:
    """Whatever else comes out."""
    known = mixed(inputs)
    sizes = [getattr(atom.aval, "size", 0) for atom in equation.invars]
    size = equation.outvars[0].aval.size
    if size == 1 and max(sizes, default=0) > 1:
        # A norm of all gradients is no gradient.
        known = known._replace(cut=False)
    if equation.primitive.name not in _ELEMENTWISE:
        return known._replace(uniform=size == 1)
    carries = all_of(_carried(equation, at, each) for at, each in enumerate(inputs))
    core = all_of(each.core for each in inputs)
    uniform = all(each.uniform for each in inputs) or size == 1
    if equation.primitive.name in ("div", "pow") and not backward:
        top, bottom = inputs
        if bottom.uniform and top.carries and not top.uniform:
            return Known(None, known.depends, top.core, carries, None, False, top.cut)
    if equation.primitive.name in ("gather", "scatter", "concatenate", "stack", "pad"):
        uniform = False
    return Known(None, known.depends, core, carries, None, uniform, known.cut)


def _carried(equation: Any, at: int, known: Known) -> int:
    """What an operand carries on, if it has as many elements as what comes out."""
    return known.carries if equation.invars[at].aval.size == equation.outvars[0].aval.size else 0


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
    found = joined(cases, which if which.uniform else None, backward)
    if which.uniform or found.number is not None:
        return found
    if found.same is not None:
        return found
    return found._replace(depends=found.depends | which.depends, core=found.core | which.core)


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
