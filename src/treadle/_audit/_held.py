"""What a function can reach besides its arguments, and whether tracing changed it."""

import ast
import collections
import dis
import functools
import linecache
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from ._source import Place, library_of

_DEPTH = 4
_MOST = 2_000
"""Objects that are looked at."""

_CHANGERS = frozenset(
    {
        *("add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert"),
        *("pop", "popitem", "popleft", "remove", "reverse", "setdefault", "sort", "update"),
    }
)


class Holder(NamedTuple):
    """An object that a function can reach.

    Attributes:
        value: The object: a list, a dictionary, a cell of a closure, the globals of a module, ...
        name: What the function calls it: `"history"`, `"self"`.
        code: Of the function that reaches it.
        content: What was in it, by index, key or name.
    """

    value: Any
    name: str
    code: Any
    content: dict[Any, Any]


class Change(NamedTuple):
    """Something that was changed while tracing.

    Attributes:
        name: `"history"`, `"self.calls"`.
        leaks: Whether it now holds a tracer.
        place: The line that changes it, as far as can be told.
    """

    name: str
    leaks: bool
    place: Place | None


class Held:
    """What a function can reach, as it is now."""

    def __init__(self, fn: Any):
        self._holders: list[Holder] = []
        self._seen: dict[int, Any] = {}
        self._walk(fn, "", None, _DEPTH)

    def changes(self) -> list[Change]:
        """What is other than it was."""
        found = []
        for holder in self._holders:
            now = _content(holder.value)
            if now is None:
                continue
            keys = [
                key
                for key in now
                if (key not in holder.content or _other(now[key], holder.content[key]))
                and not _is_cached(holder.value, key, now[key])
            ]
            gone = [key for key in holder.content if key not in now]
            if not keys and not gone:
                continue
            leaks = any(_has_tracer(now[key]) for key in keys)
            name, place = _told(holder, (keys or gone)[0])
            found.append(Change(name, leaks, place))
        return found

    def take_back_tracers(self) -> None:
        """Puts back what was there, where there is a tracer now."""
        for holder in self._holders:
            now = _content(holder.value)
            if now is not None and any(
                _has_tracer(each)
                for key, each in now.items()
                if key not in holder.content or _other(each, holder.content[key])
            ):
                _put_back(holder)

    # -- walking ------------------------------------------------------------------------------

    def _walk(self, value: Any, name: str, code: Any, depth: int) -> None:
        if depth < 0 or id(value) in self._seen or len(self._seen) > _MOST:
            return
        if isinstance(value, (types.ModuleType, jax.Array, str, bytes, int, float, complex)):
            return
        self._seen[id(value)] = value
        function = _function(value)
        if function is not None:
            self._function(function, value, depth)
            return
        if isinstance(value, (tuple, frozenset)):
            for each in value:
                self._walk(each, name, code, depth - 1)
            return
        content = _content(value)
        if content is None or (code is None and not _is_users(type(value))):
            return
        if len(content) <= _MOST:
            self._holders.append(Holder(value, name, code, content))
            for each in content.values():
                self._walk(each, name, code, depth - 1)
        if _is_users(type(value)):
            self._walk(type(value), name, code, depth - 1)

    def _function(self, function: Any, value: Any, depth: int) -> None:
        code = function.__code__
        owner = getattr(_unwrapped(value), "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self._walk(owner, "self", code, depth)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self._variable(cell, name, code, depth)
        for name in _global_names(code):
            if name in function.__globals__:
                self._walk(function.__globals__[name], name, code, depth - 1)
        stored = _stored_globals(code)
        if stored:
            content = {
                name: function.__globals__[name] for name in stored & function.__globals__.keys()
            }
            holder = Holder(_Globals(function.__globals__, tuple(content)), "", code, content)
            self._holders.append(holder)
        for each in function.__defaults__ or ():
            self._walk(each, "a default argument", code, depth - 1)

    def _variable(self, cell: Any, name: str, code: Any, depth: int) -> None:
        content = _content(cell)
        if content and id(cell) not in self._seen:
            self._seen[id(cell)] = cell
            self._holders.append(Holder(cell, name, code, content))
            self._walk(content["cell_contents"], name, code, depth - 1)


class _Globals(NamedTuple):
    """Some of a module's variables."""

    variables: dict[str, Any]
    names: tuple[str, ...]


def _function(value: Any) -> Any:
    """The user's function in a callable; `None` if there is none."""
    if isinstance(value, functools.partial):
        return _function(value.func)
    value = _unwrapped(value)
    value = getattr(value, "__func__", value)
    if isinstance(value, types.FunctionType) and library_of(value.__code__.co_filename) is None:
        return value
    return None


def _unwrapped(value: Any) -> Any:
    """What lies under decorators; a bound method stays one."""
    for _ in range(10):
        if not hasattr(value, "__wrapped__") or hasattr(value, "__func__"):
            break
        value = value.__wrapped__
    return value


def _codes(code: Any) -> Iterator[Any]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _codes(each)


def _global_names(code: Any) -> set[str]:
    return {name for each in _codes(code) for name in each.co_names}


def _stored_globals(code: Any) -> set[str]:
    return {
        step.argval
        for each in _codes(code)
        for step in dis.get_instructions(each)
        if step.opname == "STORE_GLOBAL"
    }


def _is_users(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    return file is not None and library_of(file) is None


def _content(value: Any) -> dict[Any, Any] | None:
    """What is in an object that can be changed; `None` for any other."""
    if isinstance(value, _Globals):
        return {name: value.variables.get(name) for name in value.names}
    if isinstance(value, types.CellType):
        try:
            return {"cell_contents": value.cell_contents}
        except ValueError:  # Nothing was put into it yet.
            return {}
    if isinstance(value, np.ndarray):
        return {"": value.tobytes()} if value.nbytes <= 2**20 and value.dtype != object else None
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, (list, collections.deque)):
        return dict(enumerate(value))
    if isinstance(value, set):
        return {each: each for each in value}
    if isinstance(value, type):
        own = vars(value).items() if _is_users(value) else ()
        return {name: each for name, each in own if not name.startswith("__")} or None
    if _is_users(type(value)) and hasattr(value, "__dict__"):
        return dict(vars(value))
    return None


def _other(now: Any, before: Any) -> bool:
    if now is before:
        return False
    plain = (int, float, complex, str, bytes, bool)
    return not (isinstance(now, plain) and type(now) is type(before) and now == before)


def _is_cached(holder: Any, key: Any, value: Any) -> bool:
    """Whether it is a `cached_property` that was asked for the first time."""
    made = getattr(type(holder), key, None) if isinstance(key, str) else None
    return isinstance(made, functools.cached_property) and not _has_tracer(value)


def _has_tracer(value: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def _put_back(holder: Holder) -> None:
    value, content = holder.value, holder.content
    if isinstance(value, _Globals):
        value.variables.update(content)
    elif isinstance(value, types.CellType):
        if content:
            value.cell_contents = content["cell_contents"]
    elif isinstance(value, dict):
        value.clear()
        value.update(content)
    elif isinstance(value, list):
        value[:] = content.values()
    elif isinstance(value, (collections.deque, set)):
        value.clear()
        (value.extend if isinstance(value, collections.deque) else value.update)(content.values())
    elif isinstance(value, type):
        for name, each in content.items():
            if vars(value).get(name) is not each:
                setattr(value, name, each)
    else:
        vars(value).clear()
        vars(value).update(content)


# -- where it is changed --------------------------------------------------------------------------


def _told(holder: Holder, key: Any) -> tuple[str, Place | None]:
    """What is changed, in the function's words, and the line that does it."""
    value, name = holder.value, holder.name
    if isinstance(value, _Globals):
        return str(key), _line(holder.code, str(key), None)
    if isinstance(value, (types.CellType, dict, list, set, collections.deque, np.ndarray)):
        found = _line(holder.code, name, None)
        return name, found or _of_code(holder.code)
    kind = value if isinstance(value, type) else type(value)
    shown = f"{kind.__name__}.{key}"
    for code, base in _changers(holder, kind):
        found = _line(code, base, str(key))
        if found is not None:
            return shown, found
    return shown, None if holder.code is None else _of_code(holder.code)


def _changers(holder: Holder, kind: type) -> Iterator[tuple[Any, str]]:
    """The functions that may change an object, and what they call it."""
    if holder.code is not None:
        yield holder.code, holder.name
        yield holder.code, kind.__name__
    for name, function in vars(kind).items():
        code = getattr(_function(function), "__code__", None)
        if code is not None and name != "__init__":
            yield from ((code, base) for base in ("self", "cls", kind.__name__))


def _of_code(code: Any) -> Place:
    return Place(code.co_filename, code.co_firstlineno, code.co_qualname)


def _line(code: Any, base: str, attribute: str | None) -> Place | None:
    """The line of a function that changes what it knows under a name."""
    text = "".join(linecache.getlines(code.co_filename))
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    lines = range(code.co_firstlineno, _last_line(code) + 1)
    for node in ast.walk(tree):
        if getattr(node, "lineno", 0) not in lines:
            continue
        if any(_names(target, base, attribute) for target in _targets(node)):
            return Place(code.co_filename, getattr(node, "lineno", 0), code.co_qualname)
    return None


def _last_line(code: Any) -> int:
    ends = [line for each in _codes(code) for _, _, line in each.co_lines() if line is not None]
    return max(ends, default=code.co_firstlineno)


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    if isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        return [node.target]
    if isinstance(node, ast.NamedExpr):
        return [node.target]
    if isinstance(node, ast.Delete):
        return node.targets
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return [node.func.value] if node.func.attr in _CHANGERS else []
    return []


def _names(target: ast.expr, base: str, attribute: str | None) -> bool:
    """Whether a target is, or lies in, what is known under a name."""
    attributes = []
    while isinstance(target, (ast.Attribute, ast.Subscript)):
        if isinstance(target, ast.Attribute):
            attributes.append(target.attr)
        target = target.value
    if isinstance(target, (ast.Tuple, ast.List)):
        return any(_names(each, base, attribute) for each in target.elts)
    if not isinstance(target, ast.Name) or target.id != base:
        return False
    return attribute is None or attribute in attributes
