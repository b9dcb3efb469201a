"""Where in the user's code something captured is written, when a helper is what reads it."""

import ast
import contextlib
import gc
import inspect
import linecache
import os
import re
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

import jax
import numpy as np

from ._source import Frame, syntax_tree

LIKE_A_KEY = re.compile(r"key|rng|seed", re.IGNORECASE)
"""Names that people give to keys."""


def parameters(code: Any) -> tuple[str, ...]:
    """The names of all that a function takes."""
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return code.co_varnames[:count]


def takes_a_key(code: Any) -> bool:
    """Whether a parameter of a function is named like a key or a seed."""
    return any(LIKE_A_KEY.search(name) for name in parameters(code))


def capture(found: Sequence[Frame]) -> Frame | None:
    """The call at which a captured key comes in.

    A key that is a parameter of the function that consumes it was handed over by the caller, so the
    line is looked for there; and so on outwards, until the key is anything but a parameter.

    Args:
        found: The calls on the way to the equation that consumes it.
    """
    users = [at for at, frame in enumerate(found) if frame.library is None]
    place: Frame | None = None
    name: str | None = None
    taker: Any = None
    for at in reversed(users):
        frame = found[at]
        if name is not None and taker is not frame.code and _is_around(frame.code, taker):
            if name not in parameters(frame.code):
                break  # A local variable of the function around.
            taker = frame.code
            continue
        drawing = at + 1 < len(found) and _is_sampler(found[at + 1])
        written = _written(frame, taker, name, drawing)
        if written is None:
            if place is not None:
                break  # A default of the parameter.
            continue
        place = frame
        if not isinstance(written, ast.Name):
            break
        name = written.id
        if name in parameters(frame.code):
            taker = frame.code
        elif name in frame.code.co_freevars:
            taker = _Local(frame.code)
        else:
            break
    return place or (found[users[-1]] if users else None)


class _Local:
    """Stands for the function around another, whose variable that one reads."""

    def __init__(self, code: Any):
        self.code = code


def _is_around(code: Any, taker: Any) -> bool:
    return isinstance(taker, _Local) and taker.code.co_qualname.startswith(
        f"{code.co_qualname}.<locals>."
    )


def _is_sampler(frame: Frame) -> bool:
    return frame.library == "jax" and "random" in os.path.basename(frame.code.co_filename)


def _written(frame: Frame, taker: Any, name: str | None, drawing: bool) -> ast.expr | None:
    """What a call at this place hands over as the key."""
    if isinstance(taker, _Local):
        return None
    for call in _calls(frame):
        named = {each.arg: each.value for each in call.keywords if each.arg is not None}
        if name is not None:
            found = named.get(name) or _positional(call, taker, name)
            if found is not None:
                return found
        for word, value in named.items():
            if LIKE_A_KEY.search(word):
                return value
        for value in (*call.args, *named.values()):
            if LIKE_A_KEY.search(ast.unparse(value)):
                return value
        if drawing and call.args:
            return call.args[0]
    return None


def _positional(call: ast.Call, taker: Any, name: str) -> ast.expr | None:
    names = list(taker.co_varnames[: taker.co_argcount])
    if names[:1] == ["self"]:
        names = names[1:]
    if name not in names or any(isinstance(each, ast.Starred) for each in call.args):
        return None
    at = names.index(name)
    return call.args[at] if at < len(call.args) else None


def _calls(frame: Frame) -> list[ast.Call]:
    """The calls that begin at a place, the outermost first."""
    return [node for node in _expressions(frame) if isinstance(node, ast.Call)]


def _expressions(frame: Frame) -> list[ast.expr]:
    tree = syntax_tree("".join(linecache.getlines(frame.code.co_filename)))
    if tree is None:
        return []
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.expr)
        and (node.lineno, node.col_offset) == (frame.line, frame.column)
    ]


# -- arrays ----------------------------------------------------------------------------------------


def holder(found: Sequence[Frame], array: Any) -> Frame | None:
    """The innermost of the user's calls at which a captured array is read, not handed over.

    That is one whose function has it in its closure, a default or a global; else one that reads an
    attribute of `self`.

    Args:
        found: The calls on the way to the equation that first reads the array.
        array: A constant of the program.
    """
    users = [frame for frame in found if frame.library is None]
    for at in reversed(range(len(users))):
        names = [name for name, value in _variables(users[at]) if _holds(value, array)]
        if names:
            return _innermost(users[at:], names)
    return next((frame for frame in reversed(users) if _reads_self(frame)), None)


def _innermost(users: Sequence[Frame], names: Sequence[str]) -> Frame:
    """Local functions that read the variables too; they are gone when the program is traced."""
    outer = users[0]
    for frame in reversed(users):
        local = frame.code.co_qualname.startswith(f"{outer.code.co_qualname}.<locals>.")
        if local and not set(frame.code.co_freevars).isdisjoint(names):
            return frame
    return outer


def _variables(frame: Frame) -> Iterator[tuple[str, Any]]:
    """What a function reads and was not handed. A traceback knows the code only."""
    functions = [each for each in gc.get_referrers(frame.code) if isinstance(each, FunctionType)]
    for function in functions:
        defaults = {**inspect.signature(function).parameters}
        yield from ((name, each.default) for name, each in defaults.items())
        for name, cell in zip(frame.code.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # A cell that is empty.
                yield name, cell.cell_contents
        known = function.__globals__
        yield from ((name, known[name]) for name in frame.code.co_names if name in known)


def _holds(value: Any, array: Any) -> bool:
    return any(_is(each, array) for each in jax.tree.leaves(value))


def _is(value: Any, array: Any) -> bool:
    if value is array:
        return True
    # JAX makes arrays of its own from NumPy's.
    return (
        isinstance(value, np.ndarray)
        and (value.shape, value.dtype) == (array.shape, array.dtype)
        and np.array_equal(value, np.asarray(array))
    )


def _reads_self(frame: Frame) -> bool:
    return any("self." in ast.unparse(node) for node in _expressions(frame))
