"""Running a program operation by operation, and noting where numbers stop being finite."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._code import LOOPS, Code, Constant, Instruction, Stop, code_of
from ._values import KINDS, Range, is_finite, is_float, mask_of, on_host

_NAMES = """
    abs acos acosh add add_any asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    conj convert_element_type copy copy_p cos cosh digamma div erf erf_inv erfc exp exp2 expm1 floor
    imag integer_pow is_finite lgamma log log1p logistic max min mul neg nextafter polygamma pow
    real reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan
    tanh
"""
_ELEMENTWISE = frozenset(_NAMES.split())
"""What computes each element from the elements in the same place."""

_TURNS = 100_000
"""How many turns of one loop are looked at."""


class Value:
    """An array on its way through the program.

    Attributes:
        array: Its numbers, as long as they are needed.
        nan: Whether one of them is NaN.
        inf: Whether one is infinite.
        event: What made it, if it is not finite; `None` for what comes from outside.
        index: Which of what the event gives.
        name: What it is called, if it comes from outside; `""` for what the program itself holds.
    """

    __slots__ = ("array", "event", "index", "inf", "name", "nan", "pinned")

    def __init__(self, array: Any, *, event: "Event | None" = None, index: int = 0, name: str = ""):
        self.array = array
        self.event = event
        self.index = index
        self.name = name
        self.pinned = False
        self.nan = self.inf = False
        if not is_finite(array):
            host = on_host(array)
            self.nan, self.inf = (bool(mask_of(host, kind).any()) for kind in KINDS)

    def has(self, kind: str) -> bool:
        """Whether it has numbers of a kind, `"nan"` or `"inf"`."""
        return self.nan if kind == "nan" else self.inf

    @property
    def is_bad(self) -> bool:
        """Whether anything in it is not finite."""
        return self.nan or self.inf


@dataclasses.dataclass(eq=False)
class Trace:
    """Where the numbers of one kind in a result come from.

    Attributes:
        causes: Operands that have such numbers, in the same places as far as places are known.
        born: Whether some come from none of them.
        infinities: Where NaNs are born, operands that are infinite there.
    """

    causes: list[Value]
    born: bool
    infinities: list[Value]


@dataclasses.dataclass(eq=False)
class Birth:
    """What an operation looked like that made numbers which are not finite.

    Attributes:
        operands: Its operands.
        result: What it gave.
        at: The place of the first such number.
        elements: What the operands have there, where each element is computed from the same place.
        value: The number itself.
        along: For each axis of the result, where on it there are such numbers.
        operands_along: The same for each operand, of what is not finite in it.
    """

    operands: list[tuple[str, Range]]
    result: Range
    at: tuple[int, ...]
    elements: list[float] | None
    value: float
    along: list[np.ndarray]
    operands_along: list[list[np.ndarray]]


@dataclasses.dataclass(eq=False)
class Event:
    """An operation whose result is not finite.

    Attributes:
        number: In which order operations ran.
        instruction: What it is.
        turns: In which turns of the loops around it, from the outermost inwards.
        inputs: Its operands.
        traces: For each result, and each kind of number, where they come from.
        births: What it looked like, for results of which some numbers come from no operand.
    """

    number: int
    instruction: Instruction
    turns: tuple[int, ...]
    inputs: list[Value]
    traces: dict[tuple[int, str], Trace] = dataclasses.field(default_factory=dict)
    births: dict[tuple[int, str], Birth] = dataclasses.field(default_factory=dict)
    _opened: Any = None

    @property
    def is_loop(self) -> bool:
        """Whether there is a program in it, which is looked into when it matters."""
        return self.instruction.name in LOOPS and not self.traces


class Interpreter:
    """Runs programs, and counts what happens in them."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._codes: dict[tuple[int, tuple[Stop, ...]], tuple[Any, Code]] = {}

    def run(self, code: Code, inputs: Sequence[Value], turns: tuple[int, ...] = ()) -> list[Value]:
        """What a program gives."""
        env: dict[int, Value] = dict(zip(code.inputs, inputs, strict=True))
        env |= {slot: Value(value) for slot, value in code.constants.items()}
        for at, chunk in enumerate(code.chunks):
            results = chunk.run([env[slot].array for slot in chunk.needs])
            for instruction, arrays in zip(chunk.instructions, results, strict=True):
                operands = [_read(atom, env) for atom in instruction.inputs]
                values = self._note(instruction, turns, operands, arrays)
                env.update(zip(instruction.outputs, values, strict=True))
            for slot, last in code.last_use.items():
                if last == at and not env[slot].pinned:
                    env[slot].array = None
        return [_read(atom, env) for atom in code.outputs]

    def _note(
        self, instruction: Instruction, turns: tuple[int, ...], operands: list[Value], arrays: Any
    ) -> list[Value]:
        event = Event(next(self._numbers), instruction, turns, operands)
        values = [Value(array, event=event, index=at) for at, array in enumerate(arrays)]
        bad = [value for value in values if value.is_bad]
        if not bad:
            for value in values:
                value.event = None
            return values
        if event.is_loop:
            for operand in operands:
                operand.pinned = True
            return values
        for value in bad:
            host = on_host(value.array)
            for kind in KINDS:
                if value.has(kind):
                    mask = mask_of(host, kind)
                    trace, places = _trace(instruction, operands, mask, kind)
                    event.traces[value.index, kind] = trace
                    if trace.born or any(cause.event is None for cause in trace.causes):
                        event.births[value.index, kind] = _birth(
                            instruction,
                            operands,
                            value.array,
                            mask if places is None else places,
                        )
        return values

    def inside(self, value: Value, kind: str) -> Value | None:
        """The value in a loop that such numbers of its result come from; `None` if there is none.

        Args:
            value: What the loop gave.
            kind: `"nan"` or `"inf"`.
        """
        event = value.event
        assert event is not None
        if event._opened is None:
            opening = {"scan": _Scan, "while": _While, "cond": _Cond}[event.instruction.name]
            event._opened = opening(self, event)
        return event._opened.origin(value.index, kind)

    def code(self, program: Any, event: Event, branch: int = 0) -> Code:
        """The program in a loop."""
        instruction = event.instruction
        *above, last = instruction.position
        position = (*above, Stop(last.at, branch))
        key = (id(program), position)
        if key not in self._codes:
            # The program is kept too: an `id` is only good as long as it lives.
            self._codes[key] = program, code_of(program, instruction.path, position)
        return self._codes[key][1]


def _read(atom: Any, env: dict[int, Value]) -> Value:
    if isinstance(atom, Constant):
        return Value(atom.array)
    return env[atom]


def _trace(
    instruction: Instruction, operands: list[Value], mask: np.ndarray, kind: str
) -> tuple[Trace, np.ndarray | None]:
    """Where numbers of a kind come from; and the places of those that come from no operand."""
    if instruction.name == "select_n":
        return _chosen(operands, mask, kind), None
    if instruction.name not in _ELEMENTWISE:
        causes = [each for each in operands if each.has(kind)]
        infinities = [each for each in operands if each.inf] if kind == "nan" else []
        return Trace(causes, not causes, infinities), None
    causes, rest = [], mask
    for each in operands:
        if each.has(kind):
            there = mask_of(on_host(each.array), kind)
            if np.any(there & mask):
                causes.append(each)
                rest = np.asarray(rest & ~there)
    infinities = []
    for each in operands if kind == "nan" else ():
        if each.inf and np.any(mask_of(on_host(each.array), "inf") & rest):
            infinities.append(each)
    born = bool(rest.any())
    return Trace(causes, born, infinities), rest if born else None


def _chosen(operands: list[Value], mask: np.ndarray, kind: str) -> Trace:
    """Of a selection what was chosen counts, and nothing else."""
    which, *cases = operands
    chosen = np.asarray(which.array)
    causes = [
        case
        for at, case in enumerate(cases)
        if case.has(kind) and np.any(mask_of(on_host(case.array), kind) & (chosen == at) & mask)
    ]
    return Trace(causes, not causes, [])


def _birth(instruction: Instruction, operands: list[Value], array: Any, mask: np.ndarray) -> Birth:
    at = tuple(int(index) for index in np.argwhere(mask)[0]) if mask.ndim else ()
    elements = None
    if instruction.name in _ELEMENTWISE:
        elements = [_element(each.array, mask.shape, at) for each in operands]
    names = [_name(each, atom) for each, atom in zip(operands, instruction.inputs, strict=True)]
    return Birth(
        operands=[(name, Range.of(each.array)) for name, each in zip(names, operands, strict=True)],
        result=Range.of(array),
        at=at,
        elements=elements,
        value=on_host(array)[at].item(),
        along=_along(mask),
        operands_along=[_bad_along(each) for each in operands],
    )


def _name(value: Value, atom: Any) -> str:
    return "a constant" if isinstance(atom, Constant) else value.name


def _element(array: Any, shape: tuple[int, ...], at: tuple[int, ...]) -> float:
    host = on_host(array) if is_float(array) else np.asarray(array)
    # One axis may stand for all of the result's.
    return (np.broadcast_to(host, shape)[at] if host.ndim == len(shape) else host.ravel()[0]).item()


def _along(mask: np.ndarray) -> list[np.ndarray]:
    axes = range(mask.ndim)
    others = [tuple(other for other in axes if other != axis) for axis in axes]
    return [np.asarray(mask.any(axis=each)) for each in others]


def _bad_along(value: Value) -> list[np.ndarray]:
    if not value.is_bad:
        return []
    return _along(np.asarray(~np.isfinite(on_host(value.array))))


# -- what is inside of loops ----------------------------------------------------------------------


class _Scan:
    """The turns of a `scan`."""

    def __init__(self, interpreter: Interpreter, event: Event):
        params = event.instruction.equation.params
        self._interpreter = interpreter
        self._event = event
        self._code = interpreter.code(params["jaxpr"], event)
        constants, carried = params["num_consts"], params["num_carry"]
        self._constants = event.inputs[:constants]
        self._xs = event.inputs[constants + carried :]
        self._turns: list[list[Value]] = []
        self._carry = self._first = event.inputs[constants : constants + carried]
        self._length = int(params["length"])
        self._reverse = params["reverse"]

    def origin(self, index: int, kind: str) -> Value | None:
        """The value that first has such numbers."""
        carried = index < len(self._first)
        if carried and self._first[index].has(kind):
            return self._first[index]
        for turn in range(min(self._length, _TURNS)):
            if turn == len(self._turns):
                self._take(turn)
            found = self._turns[turn][index]
            if found.has(kind):
                return found
        return None

    def _take(self, turn: int) -> None:
        at = self._length - 1 - turn if self._reverse else turn
        rows = [_row(each, at, self._event) for each in self._xs]
        inputs = [*self._constants, *self._carry, *rows]
        out = self._interpreter.run(self._code, inputs, (*self._event.turns, at))
        self._turns.append(out)
        self._carry = out[: len(self._first)]


def _row(value: Value, at: int, event: Event) -> Value:
    """One turn's part of what a `scan` goes over."""
    row = Value(value.array[at], name=f"{value.name}[{at}]" if value.name else "")
    if not row.is_bad:
        return row
    row.event = Event(event.number, event.instruction, event.turns, [value])
    for kind in KINDS:
        if row.has(kind):
            row.event.traces[0, kind] = Trace([value], born=False, infinities=[])
    return row


class _While:
    """The turns of a `while`."""

    def __init__(self, interpreter: Interpreter, event: Event):
        params = event.instruction.equation.params
        of_test, of_body = params["cond_nconsts"], params["body_nconsts"]
        self._interpreter = interpreter
        self._event = event
        self._test = interpreter.code(params["cond_jaxpr"], event, branch=1)
        self._body = interpreter.code(params["body_jaxpr"], event)
        self._of_test = event.inputs[:of_test]
        self._of_body = event.inputs[of_test : of_test + of_body]
        self._turns: list[list[Value]] = []
        self._first = event.inputs[of_test + of_body :]

    def origin(self, index: int, kind: str) -> Value | None:
        """The value that first has such numbers."""
        carry = self._first
        for turn in range(_TURNS):
            if carry[index].has(kind):
                return carry[index]
            if turn == len(self._turns):
                turns = (*self._event.turns, turn)
                (goes_on,) = self._interpreter.run(self._test, [*self._of_test, *carry], turns)
                if not bool(np.asarray(goes_on.array)):
                    return None
                inputs = [*self._of_body, *carry]
                self._turns.append(self._interpreter.run(self._body, inputs, turns))
            carry = self._turns[turn]
        return None


class _Cond:
    """The branch of a `cond` that was taken."""

    def __init__(self, interpreter: Interpreter, event: Event):
        which, *operands = event.inputs
        branches = event.instruction.equation.params["branches"]
        taken = min(max(int(np.asarray(which.array)), 0), len(branches) - 1)
        code = interpreter.code(branches[taken], event, branch=taken)
        self._out = interpreter.run(code, operands, event.turns)

    def origin(self, index: int, kind: str) -> Value | None:
        """The value in the branch."""
        found = self._out[index]
        return found if found.has(kind) else None
