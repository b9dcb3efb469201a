"""What comes of what: on which inputs each output depends, and which it carries on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core as jex_core

from .._jaxpr import inner_jaxprs
from ._private import is_backward


class Masks(NamedTuple):
    """Inputs as the bits of whole numbers.

    Attributes:
        depends: Those that a value depends on.
        carries: Those that it is an update of: it comes of them by arithmetic element by element,
            in their own shape, or by writing into them; in a backward pass, of none.
        written: Those of them that something was written into.
        learnt: 1 if a gradient is in it.
    """

    depends: int = 0
    carries: int = 0
    written: int = 0
    learnt: int = 0

    def __or__(self, other: Any) -> "Masks":
        return Masks(*(one | another for one, another in zip(self, other, strict=True)))


class Flow(NamedTuple):
    """The masks of every output."""

    outputs: list[Masks]


_NOTHING = Masks()

_ELEMENTWISE = frozenset(
    {
        "add",
        "sub",
        "mul",
        "div",
        "neg",
        "max",
        "min",
        "clamp",
        "select_n",
        "add_any",
        "convert_element_type",
        "copy",
        "copy_p",
        "reduce_precision",
        "optimization_barrier",
        "sharding_constraint",
        "device_put",
        "stop_gradient",
        "broadcast_in_dim",
        "reshape",
        "transpose",
        "squeeze",
        "sqrt",
        "integer_pow",
        "random_wrap",
        "random_unwrap",
        "pvary",
        "pcast",
    }
)


_WRITING = frozenset(
    {"dynamic_update_slice", "scatter", "scatter-add", "scatter-mul", "scatter-max", "scatter-min"}
    | {"scatter_add", "scatter_mul", "scatter_max", "scatter_min"}
)
"""Primitives that put a part of an array in place: the first of what they read."""


def flow_of(closed: Any) -> Flow:
    """The flow of a whole program."""
    jaxpr = closed.jaxpr
    given = [Masks(1 << at, 1 << at) for at in range(len(jaxpr.invars))]
    return Flow(_run(jaxpr, given))


def _run(jaxpr: Any, given: Sequence[Masks]) -> list[Masks]:
    known: dict[Any, Masks] = dict(zip(jaxpr.invars, given, strict=True))

    def read(atom: Any) -> Masks:
        if isinstance(atom, jex_core.Literal):
            return _NOTHING
        return known.get(atom, _NOTHING)

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        outs = _equation(equation, inputs)
        if is_backward(equation):
            outs = [Masks(out.depends, learnt=1) for out in outs]  # A gradient is no update.
        known.update(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _mixed(masks: Sequence[Masks]) -> Masks:
    """What is made of several values, and is an update of none."""
    depends = learnt = 0
    for mask in masks:
        depends |= mask.depends
        learnt |= mask.learnt
    return Masks(depends, learnt=learnt)


def _equation(equation: Any, inputs: list[Masks]) -> list[Masks]:
    name = equation.primitive.name
    if name == "cond":
        return _cond(equation, inputs)
    if name == "scan":
        return _scan(equation, inputs)
    if name == "while":
        return _while(equation, inputs)
    if name in _ELEMENTWISE:
        return _elementwise(equation, inputs)
    if name in _WRITING:
        into = inputs[0]
        return [_mixed(inputs)._replace(carries=into.carries, written=into.carries)]
    if name == "concatenate":
        return [_mixed(inputs)._replace(written=_grown(equation, inputs))]
    inner = [each for value in equation.params.values() for each in inner_jaxprs(value)]
    if len(inner) == 1 and len(inner[0].invars) == len(inputs):
        outs = _run(inner[0], inputs)
        if len(outs) == len(equation.outvars):
            return outs
    return [_mixed(inputs)] * len(equation.outvars)


def _grown(equation: Any, inputs: list[Masks]) -> int:
    """What one more element is put behind, or in front of."""
    at = equation.params["dimension"]
    lengths = [atom.aval.shape[at] for atom in equation.invars]
    if len(lengths) != 2 or 1 not in lengths:
        return 0
    return inputs[1 - lengths.index(1)].carries


_LEAST = 0.25
"""What an update leaves of the old value at least: weight decay keeps far less of it."""


def _fades(equation: Any) -> bool:
    """Whether little is left of a value, once it was multiplied with a number in the code."""
    name, atoms = equation.primitive.name, equation.invars
    if name == "mul":
        return any(0 < abs(number) < _LEAST for number in map(_number, atoms))
    return name == "div" and abs(_number(atoms[1])) > 1 / _LEAST


def _number(atom: Any) -> float:
    """A number in the code; zero for anything else."""
    if not isinstance(atom, jex_core.Literal):
        return 0.0
    value = np.asarray(atom.val)
    return float(value) if value.dtype.kind == "f" and not value.shape else 0.0


def _elementwise(equation: Any, inputs: list[Masks]) -> list[Masks]:
    outs = equation.outvars
    if len(outs) == len(inputs) > 1:  # A barrier.
        return list(inputs)
    size = outs[0].aval.size
    carries = written = 0
    kept = [] if _fades(equation) else list(zip(equation.invars, inputs, strict=True))
    for atom, mask in kept:
        if atom.aval.size == size or size == 1:
            carries |= mask.carries
            written |= mask.written
    return [_mixed(inputs)._replace(carries=carries, written=written)]


def _cond(equation: Any, inputs: list[Masks]) -> list[Masks]:
    which, *operands = inputs
    outs = [_run(branch.jaxpr, operands) for branch in equation.params["branches"]]
    merged = []
    for cases in zip(*outs, strict=True):
        total = Masks(which.depends, learnt=which.learnt)
        for case in cases:
            total = total | case
        merged.append(total)
    return merged


def _scan(equation: Any, inputs: list[Masks]) -> list[Masks]:
    params = equation.params
    first, carried = params["num_consts"], params["num_carry"]
    consts, carry, rows = (
        inputs[:first],
        inputs[first : first + carried],
        inputs[first + carried :],
    )
    while True:
        outs = _run(params["jaxpr"].jaxpr, [*consts, *carry, *rows])
        new = [old | out for old, out in zip(carry, outs[:carried], strict=True)]
        if new == carry:
            return [*new, *outs[carried:]]
        carry = new


def _while(equation: Any, inputs: list[Masks]) -> list[Masks]:
    params = equation.params
    tested, held = params["cond_nconsts"], params["body_nconsts"]
    of_test, of_body = inputs[:tested], inputs[tested : tested + held]
    carry = inputs[tested + held :]
    while True:
        outs = _run(params["body_jaxpr"].jaxpr, [*of_body, *carry])
        new = [old | out for old, out in zip(carry, outs, strict=True)]
        if new == carry:
            break
        carry = new
    # How often it runs depends on what is tested.
    test = _mixed(_run(params["cond_jaxpr"].jaxpr, [*of_test, *carry]))
    return [each | test for each in carry]
