"""A traced program as one flat list of operations, calls written out."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex_core

from ._private import evaluate

# Which parameter of a call has the function that is called.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_vmap_call": "call",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}

LOOPS = ("scan", "while", "cond")
"""What is run whole, and opened only where something in it is looked for."""

# All that a chunk computes comes out of it, so it is cut where that would fill the memory.
_CHUNK_BYTES = 1 << 30


class Constant(NamedTuple):
    """An operand that is written in the program."""

    value: Any
    dtype: Any

    @property
    def array(self) -> np.ndarray:
        """The operand as an array."""
        # It may be a number that knows its dtype, and has no shape.
        return np.asarray(self.value, self.dtype)


Slot = int
Atom = Slot | Constant


class Stop(NamedTuple):
    """The place of an equation in a program, or in one inside of it.

    Attributes:
        at: Which equation.
        branch: Of a `cond`, which branch of it is gone into.
    """

    at: int
    branch: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """One operation.

    Attributes:
        equation: What it is.
        inputs: What it reads.
        outputs: Where it writes.
        path: The equation, behind all that call it.
        position: Where it stands.
    """

    equation: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Slot, ...]
    path: tuple[Any, ...]
    position: tuple[Stop, ...]

    @property
    def name(self) -> str:
        """The primitive."""
        return self.equation.primitive.name


class Chunk:
    """Operations that are compiled together, and hand out all that they compute."""

    def __init__(self, instructions: list[Instruction]):
        self.instructions = instructions
        made = {slot for each in instructions for slot in each.outputs}
        read = {atom for each in instructions for atom in each.inputs if isinstance(atom, int)}
        self.needs = sorted(read - made)
        self._program = jax.jit(self._evaluate)

    def _evaluate(self, *arrays: Any) -> list[list[Any]]:
        env = dict(zip(self.needs, arrays, strict=True))
        found = []
        for each in self.instructions:
            values = [
                atom.value if isinstance(atom, Constant) else env[atom] for atom in each.inputs
            ]
            outs = evaluate(each.equation, values)
            env.update(zip(each.outputs, outs, strict=True))
            found.append(outs)
        return found

    def run(self, arrays: list[Any]) -> list[list[Any]]:
        """What each operation gives."""
        return self._program(*arrays)


@dataclasses.dataclass(frozen=True, eq=False)
class Code:
    """A program.

    Attributes:
        inputs: Where its arguments go.
        outputs: What comes out.
        constants: What it begins with besides.
        chunks: Its operations.
        last_use: Behind which chunk nobody reads a slot any more; not of what comes out.
    """

    inputs: tuple[Slot, ...]
    outputs: tuple[Atom, ...]
    constants: dict[Slot, Any]
    chunks: tuple[Chunk, ...]
    last_use: dict[Slot, int]


class _Writer:
    """Writes calls out."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self.constants: dict[Slot, Any] = {}
        self._count = 0

    def slot(self) -> Slot:
        self._count += 1
        return self._count - 1

    def write(
        self,
        program: Any,
        inputs: Sequence[Atom],
        path: tuple[Any, ...],
        position: tuple[Stop, ...],
    ) -> list[Atom]:
        """Adds a program's operations.

        Args:
            program: It, with its constants if it has any.
            inputs: What it is called with.
            path: Its callers.
            position: Where it is called.
        """
        jaxpr = getattr(program, "jaxpr", program)
        env: dict[Any, Atom] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, value in zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True):
            env[var] = slot = self.slot()
            self.constants[slot] = value

        def read(atom: Any) -> Atom:
            if isinstance(atom, jex_core.Literal):
                aval: Any = atom.aval
                return Constant(atom.val, aval.dtype)
            return env[atom]

        for index, equation in enumerate(jaxpr.eqns):
            operands = tuple(map(read, equation.invars))
            below, here = (*path, equation), (*position, Stop(index))
            called = called_by(equation)
            if called is not None:
                outs = self.write(called, operands, below, here)
            else:
                outs = [self.slot() for _ in equation.outvars]
                self.instructions.append(Instruction(equation, operands, tuple(outs), below, here))
            env.update(zip(equation.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]


def called_by(equation: Any) -> Any:
    """The program that a call calls; `None` where it is none, or a loop."""
    parameter = _CALLS.get(equation.primitive.name)
    return None if parameter is None else equation.params[parameter]


def code_of(program: Any, path: tuple[Any, ...] = (), position: tuple[Stop, ...] = ()) -> Code:
    """A program, calls written out.

    Args:
        program: A `ClosedJaxpr`.
        path: The equations around it.
        position: Where it stands.
    """
    writer = _Writer()
    inputs = tuple(writer.slot() for _ in program.jaxpr.invars)
    outputs = tuple(writer.write(program, inputs, path, position))
    chunks = tuple(map(Chunk, _cut(writer.instructions)))
    last_use = {slot: at for at, chunk in enumerate(chunks) for slot in _slots(chunk)}
    kept = {atom for atom in outputs if isinstance(atom, int)}
    own = {slot for each in writer.instructions for slot in each.outputs}
    freed = {slot: at for slot, at in last_use.items() if slot in own and slot not in kept}
    return Code(inputs, outputs, writer.constants, chunks, freed)


def _slots(chunk: Chunk) -> Iterator[Slot]:
    for each in chunk.instructions:
        yield from (atom for atom in each.inputs if isinstance(atom, int))
        yield from each.outputs


def _cut(instructions: list[Instruction]) -> Iterator[list[Instruction]]:
    held: list[Instruction] = []
    size = 0
    for each in instructions:
        held.append(each)
        size += sum(_nbytes(var.aval) for var in each.equation.outvars)
        if size >= _CHUNK_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _nbytes(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    return 0 if dtype is None else int(aval.size) * int(dtype.itemsize)
