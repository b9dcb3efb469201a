"""The user's own line of an equation: not JAX's, Equinox's, Optax's, Flax's, Haiku's or ours."""

import ast
import dataclasses
import functools
import inspect
import linecache
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from .._diagnose import Place as Place
from .._diagnose import library_of as library_of
from ._private import RawFrame, raw_frames

_IGNORE = re.compile(r"#\s*treadle:\s*ignore\[([\w\s,-]+)\]")


@dataclasses.dataclass(frozen=True)
class Frame:
    """One call on the way to an equation."""

    code: Any
    line: int
    column: int
    library: str | None

    @property
    def place(self) -> Place:
        return Place(self.code.co_filename, self.line, self.code.co_qualname)


def _frame(raw: RawFrame) -> Frame:
    return Frame(raw.code, raw.line, raw.column, library_of(raw.code.co_filename))


def frames(equation: Any) -> list[Frame]:
    """The calls on the way to one equation, from the outermost inwards."""
    found = [_frame(raw) for raw in reversed(raw_frames(equation))]
    # In older JAX the stack goes on, out to who called the audit.
    ours = [at for at, frame in enumerate(found) if frame.code.co_filename == TRACER]
    return found[ours[-1] + 1 :] if ours else found


TRACER = os.path.join(os.path.dirname(__file__), "_load.py")
"""The file that traces: what called it is no part of what is traced."""


def path_frames(path: Iterable[Any]) -> list[Frame]:
    """The same through inner programs: a traceback stops where one begins.

    Args:
        path: The equation, behind all that enclose it.
    """
    found: list[Frame] = []
    before: list[Frame] = []
    for equation in path:
        own = frames(equation)
        found += beyond(own, before)
        before = own
    return found


def beyond(own: list[Frame], before: list[Frame]) -> list[Frame]:
    """The calls of an equation without those of the one that encloses it.

    In older JAX a traceback does not stop where an inner program begins.
    """
    same = 0
    while same < min(len(own), len(before)) and own[same] == before[same]:
        same += 1
    return own[same:]


def user_place(path: Sequence[Any]) -> Place | None:
    """The innermost line of the user's on the way to an equation."""
    for equation in reversed(path):
        for frame in reversed(frames(equation)):
            if frame.library is None:
                return frame.place
    return None


def function_place(fn: Any) -> Place | None:
    """Where the user's function begins: at its first decorator, where it has one."""
    while True:
        if hasattr(fn, "func") and hasattr(fn, "args"):  # A partial application.
            fn = fn.func
        elif inspect.ismethod(fn):
            fn = fn.__func__
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        else:
            break
    code = getattr(fn, "__code__", None)
    if code is None:
        code = getattr(vars(type(fn)).get("__call__"), "__code__", None)
    if code is None or library_of(code.co_filename) is not None:
        return None
    return Place(code.co_filename, code.co_firstlineno, code.co_qualname)


def ignored_at(place: Place | None) -> frozenset[str]:
    """The rules that a comment on the line says to ignore: `# treadle: ignore[key-reuse]`."""
    if place is None:
        return frozenset()
    found: set[str] = set()
    for line in _lines_of(place):
        for names in _IGNORE.findall(line):
            found |= {name.strip() for name in names.split(",")}
    return frozenset(found)


def _lines_of(place: Place) -> list[str]:
    """The line; of a decorated function all down to its `def`."""
    lines = [linecache.getline(place.file, place.line)]
    at = place.line
    while lines[-1].lstrip().startswith("@") and at < place.line + 20:
        at += 1
        lines.append(linecache.getline(place.file, at))
    return lines


@functools.lru_cache(maxsize=64)
def syntax_tree(text: str) -> ast.Module | None:
    """A file as Python reads it; `None` where it does not."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def in_python_loop(frame: Frame) -> bool:
    """Whether a line stands inside of a loop of its own function."""
    text = "".join(linecache.getlines(frame.code.co_filename))
    tree = syntax_tree(text)
    if tree is None:
        return False
    if frame.code.co_name in ("<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"):
        return True
    loops: list[ast.AST] = []
    for node in ast.walk(tree):
        loop = isinstance(node, (ast.For, ast.AsyncFor, ast.While, *_COMPREHENSIONS))
        if loop and node.lineno <= frame.line <= (node.end_lineno or node.lineno):
            loops.append(node)
    start = frame.code.co_firstlineno
    return any(getattr(loop, "lineno", 0) >= start for loop in loops)
