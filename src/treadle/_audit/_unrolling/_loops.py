"""Which loops of Python a line stands in, and where in them an equation was traced."""

import ast
import dis
import functools
import linecache
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from .._private import traceback_of
from .._source import Frame, Place, frames

_SILENT = ("jax", "jaxlib", "python", "numpy", "beartype", "jaxtyping", "typeguard")
"""Libraries whose own loops say nothing: they go through equations and leaves."""

_EAGER = ("tree_map", "reduce")
_LAZY = ("map", "starmap", "accumulate")
"""Functions that call another one for each element, at once or one by one."""


class Turns(NamedTuple):
    """A loop of Python, as long as one call of its function lasts.

    Attributes:
        key: The same for everything that one run of the loop traces.
        depth: Which frame of a `Stack` it is in.
        mine: Whether it stands in the user's code.
    """

    key: Hashable
    depth: int
    mine: bool


class Stack(NamedTuple):
    """How an equation was reached, without the frames of JAX.

    Attributes:
        key: The same for equations of one expression, in whatever turn of a loop, and however deep
            in a recursion.
        start: The outermost function of the user's; `None` where there is none.
        places: The frames, from the outermost inwards.
        mine: Which of them are the user's.
        loops: The loops they stand in, from the outermost inwards.
    """

    key: Hashable
    start: Hashable
    places: tuple[Place, ...]
    mine: tuple[bool, ...]
    loops: tuple[Turns, ...]


class Stacks:
    """The stacks of equations, each worked out once."""

    def __init__(self) -> None:
        self._known: dict[Any, Stack] = {}

    def of(self, equation: Any, around: Any = None) -> Stack:
        """The stack of an equation.

        Args:
            equation: The equation.
            around: One that holds it, where its own stack begins anew.
        """
        key = traceback_of(equation), None if around is None else traceback_of(around)
        if key not in self._known:
            found = frames(equation)
            before = [] if around is None else frames(around)
            # In older JAX it does not begin anew.
            anew = not found or not before or found[0] != before[0]
            self._known[key] = _stack([*before, *found] if anew else found)
        return self._known[key]


def _stack(found: list[Frame]) -> Stack:
    kept = [each for each in found if each.library not in _SILENT]
    tail = found[
        max((at + 1 for at, each in enumerate(found) if each.library is None), default=0) :
    ]
    once, recursive = _without_recursion(kept)
    loops: list[Turns] = []
    for depth, frame in enumerate(once):
        around = tuple((id(each.code), each.line) for each in once[:depth])
        names: list[Hashable] = list(loops_at(frame))
        if frame.library is None and calls_for_each(frame):
            names.append(("call", frame.line))
        if depth in recursive:
            names.append("recursion")
        loops += [
            Turns((around, id(frame.code), name), depth, frame.library is None) for name in names
        ]
    key = tuple((id(each.code), each.line, each.column) for each in (*once, *tail))
    return Stack(
        key,
        next((id(each.code) for each in kept if each.library is None), None),
        tuple(each.place for each in once),
        tuple(each.library is None for each in once),
        tuple(loops),
    )


_LONGEST = 3
"""Functions that call each other in a circle."""


def _without_recursion(found: Sequence[Frame]) -> tuple[list[Frame], set[int]]:
    """The frames with those of a recursion once, the innermost; and where they are."""
    kept = list(found)
    recursive: set[int] = set()
    at = 0
    while at < len(kept):
        for size in range(1, _LONGEST + 1):
            one, two = kept[at : at + size], kept[at + size : at + 2 * size]
            same = len(two) == size and all(a.code is b.code for a, b in zip(one, two, strict=True))
            if same and one[0].library is None:
                del kept[at : at + size]
                recursive.add(at)
                break
        else:
            at += 1
    return kept, recursive


@functools.cache
def _loops_of(code: Any) -> tuple[tuple[int, frozenset[tuple[int, int | None]]], ...]:
    """The loops of a function, from the outermost inwards: where each begins, and its body.

    They are read off the bytecode, which is there where the source is not: a jump backwards ends a
    loop, and what it jumps over is the body, by lines and columns.
    """
    steps = list(dis.get_instructions(code))
    ends: dict[int, int] = {}
    for step in steps:
        jump = step.opcode in dis.hasjrel or step.opcode in dis.hasjabs
        # That of `yield from` and `await` only waits.
        if jump and step.argval < step.offset and "NO_INTERRUPT" not in step.opname:
            ends[step.argval] = max(step.offset, ends.get(step.argval, 0))
    found = []
    for start, end in sorted(ends.items()):
        body = set()
        for step in steps:
            # The step to the next turn is noted at what the loop goes over.
            if start <= step.offset <= end and step.opname != "FOR_ITER" and step.positions:
                line, column = step.positions.lineno, step.positions.col_offset
                if line is not None:
                    body.add((line, column))
        found.append((start, frozenset(body)))
    return tuple(found)


def loops_at(frame: Frame) -> tuple[int, ...]:
    """The loops of its function that a frame stands in, each by where it begins."""
    spots = {(frame.line, frame.column), (frame.line, None)}
    return tuple(start for start, body in _loops_of(frame.code) if spots & body)


@functools.lru_cache(maxsize=64)
def _calls_in(text: str) -> frozenset[tuple[int, int]]:
    """Where calls begin that call another function for each element: `tree.map`, `list(map(...))`.

    A frame is noted at the call that it is in, and what `map` makes is worked off by one around it.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return frozenset()
    found: set[tuple[int, int]] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        lazy = any(isinstance(each, ast.Call) and _name(each) in _LAZY for each in node.args)
        if lazy or _name(node) in (*_LAZY, *_EAGER):
            found.add((node.lineno, node.col_offset))
    return frozenset(found)


def _name(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def calls_for_each(frame: Frame) -> bool:
    """Whether a frame is in a call of `map`, `reduce` or the like."""
    text = "".join(linecache.getlines(frame.code.co_filename))
    return (frame.line, frame.column) in _calls_in(text)
