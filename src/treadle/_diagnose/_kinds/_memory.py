"""Programs that need more memory than there is."""

import ast
import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jax.extend import core as jex_core

from ..._jaxpr import inner_jaxprs
from ..._units import binary
from .._abstract import abstract
from .._frames import Place, library_of
from .._newest import newest_program
from .._note import Explanation
from .._private import raw_frames
from .._raised import MISSING, Raised, source_line

_MEMORY = re.compile(r"[Oo]ut of memory|allocat")
_BYTES = re.compile(
    r"alloca\w+ (?:request for )?(?:(\d+) ?bytes|(\d+(?:\.\d+)? ?[KMGT](?:i?B)?)\b)"
)
_TOLD = 5
_LARGE = 2**20


def explain_memory(raised: Raised) -> Explanation | None:
    """Where an allocation failed: what the largest values are, and which line makes them."""
    message = raised.message
    if not isinstance(raised.error, RuntimeError | ValueError | MemoryError):
        return None
    if not message.startswith("RESOURCE_EXHAUSTED") or not _MEMORY.search(message):
        return None
    found = _BYTES.search(message)
    asked = ""
    if found:
        size = binary(int(found[1])) if found[1] else found[2]
        asked = f", which could not give {size} more"
    return Explanation(
        f"The device has less memory than is needed{asked}. {_largest(raised)}".rstrip(),
        "a smaller batch, or the same one in pieces: `TrainStep(..., accumulate=4)`; compute "
        "activations again instead of keeping them: `eqx.filter_checkpoint(layer)(x)`; "
        '`precision="bf16"`; donate the old state; `jax.lax.map` over what `vmap` does at once.',
        "resource_exhausted",
        ("guides/cost/", "rules/undonated-state/"),
    )


def _largest(raised: Raised) -> str:
    """What takes the memory, as far as that is known."""
    program, which = _program(raised), "The program's"
    if program is None and _is_read(raised):
        # The device runs behind, and says so where a result is read.
        program, which = newest_program(), "If it was the program of the step compiled last: its"
    if program is None:
        alive = [value for value in _alive() if value.size >= _LARGE]
        return f"The largest arrays alive:\n{_rows(alive)}" if alive else ""
    arguments = sum(_nbytes(value.aval) for value in program.jaxpr.invars)
    return (
        f"{which} arguments are {binary(arguments)}, and these are the largest values that it "
        f"makes (but some are never stored, where XLA fuses what makes and what takes them):\n"
        f"{_rows(_made(program.jaxpr, ()))}"
    )


def _is_read(raised: Raised) -> bool:
    """Whether the error came where Python read a value, and not where a program was called."""
    return any(call.name in ("_value", "__array__", "block_until_ready") for call in raised.calls)


class _Value(NamedTuple):
    """What takes memory."""

    size: int
    text: str
    place: Place | None
    by: str


def _rows(values: Iterable[_Value]) -> str:
    """The largest, those of one line and shape together."""
    alike: dict[tuple[int, str, Place | None], list[str]] = {}
    for value in values:
        alike.setdefault((value.size, value.text, value.place), []).append(value.by)
    largest = sorted(alike, key=lambda value: -value[0])[:_TOLD]
    # What is small beside the largest is none of the trouble.
    largest = [value for value in largest if value[0] * 100 >= largest[0][0]]
    lines = []
    for size, text, place in largest:
        made = alike[size, text, place]
        times = f"{len(made)} x " if len(made) > 1 else ""
        where = ""
        if place is not None:
            line = textwrap.shorten(source_line(place), 60, placeholder=" ...")
            where = f"  {place.short}{f': `{line}`' if line else ''}"
        by = ", ".join(dict.fromkeys(filter(None, made)))
        lines.append(f"  {binary(size):>9}  {times}{text}{where}{f' ({by})' if by else ''}")
    return "\n".join(lines)


def _made(jaxpr: Any, path: tuple[Any, ...]) -> Iterator[_Value]:
    """Every value of a program that is made by an operation of its own."""
    for equation in jaxpr.eqns:
        inside = [*path, equation]
        inner = [found for value in equation.params.values() for found in inner_jaxprs(value)]
        for found in inner:
            yield from _made(found, tuple(inside))
        # What an inner program returns is its own; a loop stacks what its turns return.
        if inner and equation.primitive.name not in ("scan", "while"):
            continue
        place = _user_place(inside)
        for variable in equation.outvars:
            aval = variable.aval
            if hasattr(aval, "dtype"):
                text = f"{aval.dtype}[{','.join(map(str, aval.shape))}]"
                yield _Value(_nbytes(aval), text, place, equation.primitive.name)


def _user_place(path: list[Any]) -> Place | None:
    for equation in reversed(path):
        for frame in raw_frames(equation):
            if library_of(frame.code.co_filename) is None:
                return Place(frame.code.co_filename, frame.line, frame.code.co_qualname)
    return None


def _alive() -> Iterator[_Value]:
    for array in jax.live_arrays():
        if not array.is_deleted():
            text = f"{array.dtype}[{','.join(map(str, array.shape))}]"
            yield _Value(_nbytes(array), text, None, "")


def _nbytes(aval: Any) -> int:
    """What an array takes; of keys and the like their words."""
    dtype = getattr(aval, "dtype", None)
    itemsize = getattr(dtype, "itemsize", None)
    if itemsize is None:
        return 0
    return math.prod(size for size in aval.shape if isinstance(size, int)) * itemsize


# -- which program ----------------------------------------------------------------------------


def _program(raised: Raised) -> Any:
    """The traced program: the one that is known, or that of the compiled call on the line."""
    if raised.program is not None:
        return raised.program()
    return _called(raised, raised.node) if isinstance(raised.node, ast.Call) else None


def _called(raised: Raised, node: ast.Call) -> Any:
    """The program of a compiled function that was called with what has names."""
    function = raised.value(node.func)
    made_by = type(function).__module__.partition(".")[0]
    is_jitted = made_by in ("jax", "jaxlib", "equinox") and hasattr(function, "lower")
    if not is_jitted or any(keyword.arg is None for keyword in node.keywords):
        return None
    arguments = [_argument(raised, argument) for argument in node.args]
    keywords = {word.arg: _argument(raised, word.value) for word in node.keywords if word.arg}
    if any(value is MISSING for value in (*arguments, *keywords.values())):
        return None
    # The same shapes: what was traced for the call is found again, and nothing of the user's runs.
    closed, _, _ = eqx.filter_make_jaxpr(function)(*arguments, **keywords)
    return closed if isinstance(closed, jex_core.ClosedJaxpr) else None


def _argument(raised: Raised, node: ast.AST) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    value = raised.value(node)
    return value if value is MISSING else abstract(value)
