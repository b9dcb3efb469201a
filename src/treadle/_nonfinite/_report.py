"""What `explain_nonfinite` gives back."""

import dataclasses
import linecache
from collections.abc import Mapping, Sequence
from typing import Any

from .._diagnose import Place

_ROWS = 8


@dataclasses.dataclass(frozen=True)
class Operand:
    """An array that an operation reads or gives.

    Attributes:
        name: Its path (`"model/layers/0/weight"`, `"batch/0"`) where it is an argument of the step
            as it came in; `"a constant"`; or nothing, for what was computed before.
        dtype: Its dtype.
        shape: Its shape, with the axes that `vmap` added.
        min: The smallest of its finite numbers; `None` where there is none.
        max: The greatest.
        nan: How many are NaN.
        inf: How many are infinite.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    min: float | None
    max: float | None
    nan: int
    inf: int

    def __str__(self) -> str:
        text = f"{self.dtype}[{','.join(map(str, self.shape))}]"
        if self.min is not None and self.max is not None:
            same = self.min == self.max
            ends = f"{self.min:.6g}" if same else f"from {self.min:.6g} to {self.max:.6g}"
            text += f", {ends}"
        text += "".join(f", {part}" for part in _bad(self.nan, self.inf))
        return f"{self.name}: {text}" if self.name else text


def _bad(nan: int, inf: int) -> list[str]:
    return [f"{count} {name}" for count, name in ((nan, "NaN"), (inf, "infinite")) if count]


@dataclasses.dataclass(frozen=True)
class BadInput:
    """An argument of the step that was not finite before it began.

    Attributes:
        path: `"batch/0"`, `"args/scale"`, `"model/layers/0/weight"`, `"opt_state/0/mu/weight"`.
        nan: How many of its numbers are NaN.
        inf: How many are infinite.
        rows: Of a batch, in which examples.
    """

    path: str
    nan: int
    inf: int
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        what = " and ".join(_bad(self.nan, self.inf))
        if self.path.split("/")[0] == "batch":
            return f"{self.path} has {what} at {_rows('row', self.rows)}"
        if self.path.split("/")[0] == "args":
            return f"{self.path} has {what}"
        return f"{self.path} was not finite before this step: it has {what}"


def _rows(word: str, rows: Sequence[int]) -> str:
    listed = ", ".join(map(str, rows[:_ROWS]))
    more = f" and {len(rows) - _ROWS} more" if len(rows) > _ROWS else ""
    return f"{word}{'s' if len(rows) > 1 else ''} {listed}{more}"


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation that made numbers which are not finite.

    Attributes:
        primitive: JAX's name for it: `"div"`.
        called: What the line calls there, as it is written: `"jnp.sqrt"`, whose derivative a `div`
            may be, `"/"`; or nothing.
        kind: What it made, `"nan"` or `"inf"`.
        backward: Whether it belongs to a derivative.
        module: The path in the model of the innermost module whose call it is part of,
            `"layers/2"`; `""` where it is in none, but in the loss or in the optimizer.
        place: The user's line: `"model.py:12"`, with `file`, `line` and `function`. Of an optimizer
            the library's own line; `None` where there is none.
        values: What happened at the first such number, `"0.5 / 0.0 = inf"`.
        operands: What it read.
        result: What it gave.
        turns: In which turns of the loops around it (`scan`, `while`, microbatches), from the
            outermost inwards.
        from_constant: Whether the number stands in the program (`jnp.where(ok, loss, jnp.nan)`).
    """

    primitive: str
    called: str
    kind: str
    backward: bool
    module: str
    place: Place | None
    values: str
    operands: tuple[Operand, ...]
    result: Operand
    turns: tuple[int, ...] = ()
    from_constant: bool = False

    @property
    def line(self) -> str:
        """What stands on the line."""
        return (
            ""
            if self.place is None
            else linecache.getline(self.place.file, self.place.line).strip()
        )

    def __str__(self) -> str:
        called = f"`{self.called or self.primitive}`"
        what = f"the derivative of {called}" if self.backward and self.called else called
        if self.backward and not self.called:
            what += ", in the backward pass"
        lines = [f"{what}: {self.values}"]
        if self.place is not None:
            inside = f", in {self.place.function}" if self.place.function else ""
            module = f" (module {self.module!r})" if self.module else ""
            lines.append(f"  at {self.place.file}:{self.place.line}{inside}{module}")
        elif self.module:
            lines.append(f"  in module {self.module!r}")
        if self.line:
            lines.append(f"      {self.line}")
        lines += [f"  operand {at}: {each}" for at, each in enumerate(self.operands)]
        lines.append(f"  gave {self.result}")
        if self.turns:
            lines.append(f"  in turn {', '.join(map(str, self.turns))} of the loops around it")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class NonFinite:
    """Where the first NaN or infinity of a step came from. `print` shows an account.

    It is true where there is one.

    Attributes:
        step: The number of the step.
        where: `"inputs"`: an argument was not finite before. `"forward"`: the loss is not, or the
            state of the model's layers. `"gradient"`: the loss is finite, and the gradient is not.
            `"update"`: both are, and what the optimizer made of them is not. `"aux"`: only a figure
            beside the loss is not. `"compiled"`: the compiled step alone is not finite, and the
            same operations one by one are. `None`: everything is finite.
        reaches: What it reaches first: `"loss"`, `"model_state"`, `"gradient"`, `"update"` or
            `"aux"`.
        figures: The metrics of the step.
        inputs: The arguments that were not finite, as far as that reaches the loss, the gradient or
            the new state.
        operation: The first operation that made a NaN or an infinity which does; of a bad argument
            the first that read it, where that is known.
        then: Where the infinity became NaN, if it did.
        examples: Which examples of the batch it met there; empty where that cannot be told.
        members: Which members of an ensemble met one.
        leaves: Which leaves of the new state are not finite.
        notes: What else there is to know.
    """

    step: int
    where: str | None
    figures: Mapping[str, Any]
    reaches: str | None = None
    inputs: tuple[BadInput, ...] = ()
    operation: Operation | None = None
    then: Operation | None = None
    examples: tuple[int, ...] = ()
    members: tuple[int, ...] = ()
    leaves: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.where is not None

    def __str__(self) -> str:
        lines = [f"Step {self.step}: {_HEADLINES[self.where]}."]
        lines += [f"{each}." for each in self.inputs]
        if self.reaches is not None and self.inputs:
            lines.append(f"That reaches {_REACHED[self.reaches]}.")
        if self.operation is not None and self.where != "inputs":
            lines += _told("It began in ", self.operation)
        if self.then is not None:
            lines += _told("It became NaN in ", self.then)
        if self.examples and self.where != "inputs":
            lines.append(f"There it met {_rows('example', self.examples)} of the batch.")
        if self.members:
            lines.append(f"Of the ensemble it met {_rows('member', self.members)}.")
        if self.where == "update":
            lines.append(f"What is not finite then: {', '.join(self.leaves[:_ROWS])}.")
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])


def _told(before: str, operation: Operation) -> list[str]:
    return f"{before}{operation}".split("\n")


_REACHED = {
    "loss": "the loss",
    "model_state": "the state of the model's layers; the loss is finite",
    "gradient": "the gradient; the loss is finite",
    "update": "the update; the loss and the gradient are finite",
    "aux": "a figure beside the loss; all that trains is finite",
}
_HEADLINES = {
    None: "nothing is NaN or infinite",
    "inputs": "what went in was not finite already",
    "forward": "the forward pass is not finite",
    "gradient": "the loss is finite; the gradient is not",
    "update": "the loss and the gradient are finite; the optimizer's update is not",
    "aux": "the loss, the gradient and the update are finite; a figure beside them is not",
    "compiled": (
        "the compiled step is not finite, but its operations one by one are: XLA computes some "
        "of them together, in another order or precision"
    ),
}
