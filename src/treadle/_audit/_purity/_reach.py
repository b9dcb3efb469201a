"""What a function can reach: all that it, its globals, its classes and its arguments hold."""

import collections
import dis
import functools
import random
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from .._source import library_of
from ._contents import Generators, Iterators, Variables, content_of, is_open, is_users

_MOST = 20_000
"""Objects that are looked at."""

_LONGEST = 2_000
"""Elements of a container that are looked at."""

_LEAVES = (jax.Array, np.generic, str, bytes, int, float, complex, type(None), types.CodeType)

_PYTHONS = frozenset({"builtins", "logging", "threading", "weakref", "re", "warnings", "typing"})


class Holder(NamedTuple):
    """An object that a function can reach.

    Attributes:
        value: The object: a list, a dictionary, a cell of a closure, the globals of a module, ...
        name: What the user calls it: `"history"`, `"Trainer.log"`.
        content: What was in it, by index, key or name.
    """

    value: Any
    name: str
    content: dict[Any, Any]


class Reach:
    """All that can be reached, nearest first.

    What belongs to the user is a holder. What belongs to a library is only passed through: what it
    keeps for itself is its own business.

    Attributes:
        holders: What can be changed.
        generators: NumPy's and Python's random generators.
        iterators: What gives another thing each time that it is asked: counters and the like.
        names_random: Whether some code of the user's names Python's `random`.
        clocked: The globals of the user's code that names `time.time`.
    """

    def __init__(self, *roots: Any):
        self.holders: list[Holder] = []
        self.generators: list[Any] = []
        self.iterators: list[Any] = []
        self.names_random = False
        self.clocked: list[dict[str, Any]] = []
        self._seen: dict[int, Any] = {}
        self._waiting = collections.deque[tuple[Any, str, bool]]()
        for root in roots:
            self._waiting.append((root, "", True))
        while self._waiting and len(self._seen) < _MOST:
            value, name, owned = self._waiting.popleft()
            # A module is looked at anew by each function, for what that one names of it.
            if isinstance(value, (*_LEAVES, types.ModuleType)) or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            self._waiting.extend(self._visit(value, name, owned))

    def _hold(self, value: Any, name: str) -> None:
        content = content_of(value)
        if content is not None and len(content) <= _LONGEST:
            self.holders.append(Holder(value, name, content))

    def _visit(self, value: Any, name: str, owned: bool) -> Iterator[tuple[Any, str, bool]]:
        """What an object leads to, with the name of each, and whether it is the user's."""
        if isinstance(value, Generators):
            self.generators.append(value)
        elif isinstance(value, Iterators):
            self.iterators.append(value)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.MethodType):
            yield value.__self__, "self", True
            yield value.__func__, name, owned
        elif isinstance(value, functools.partial):
            parts = (value.func, *value.args, *value.keywords.values())
            yield from ((each, name or "a bound argument", owned) for each in parts)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, (list, dict, tuple, set, frozenset, collections.deque)):
            if owned:
                self._hold(value, name)
            inside = value.values() if isinstance(value, dict) else value
            if len(value) <= _LONGEST:
                yield from ((each, name, owned) for each in tuple(inside))
            if is_users(type(value)):
                yield type(value), type(value).__name__, True
        elif is_open(type(value)):
            yield from self._instance(value, name)
        else:
            yield from self._others(value, name, owned)

    def _function(self, function: Any) -> Iterator[tuple[Any, str, bool]]:
        code = function.__code__
        owned = library_of(code.co_filename) is None
        cells = [*zip(code.co_freevars, function.__closure__ or (), strict=True)]
        if owned:
            self.names_random |= _names(code, function.__globals__, "random", _is_random)
            if _names(code, function.__globals__, "time", _is_clock):
                self.clocked.append(function.__globals__)
            self._hold(function, function.__name__)
            for name, cell in cells:
                if id(cell) not in self._seen:
                    self._seen[id(cell)] = cell
                    self._hold(cell, name)
            yield from self._variables(code, function.__globals__)
        for name, cell in cells:
            for each in (content_of(cell) or {}).values():
                yield from self._module(each, name, code) if owned else ()
                yield each, name, owned
        if hasattr(function, "__wrapped__"):
            yield function.__wrapped__, function.__name__, owned
        taken = code.co_varnames[: code.co_argcount][-len(function.__defaults__ or ()) or None :]
        for name, each in zip(taken, function.__defaults__ or (), strict=False):
            yield each, name, owned
        for name, each in (function.__kwdefaults__ or {}).items():
            yield each, name, owned

    def _variables(self, code: Any, variables: dict[str, Any]) -> Iterator[tuple[Any, str, bool]]:
        """The globals that a function names, and what it names of its user's modules."""
        stored = stored_globals(code)
        if stored:
            self._hold(Variables(variables, stored), "")
        for name in global_names(code) & variables.keys():
            value = variables[name]
            yield from self._module(value, name, code)
            yield value, name, True

    def _module(self, module: Any, name: str, code: Any) -> Iterator[tuple[Any, str, bool]]:
        """What a function names of a module of the user's."""
        if not isinstance(module, types.ModuleType):
            return
        file = getattr(module, "__file__", None)
        if library_of(file) is None if file else module.__spec__ is None:
            names = global_names(code)
            self._hold(Variables(vars(module), names), name)
            yield from ((vars(module)[each], each, True) for each in names & vars(module).keys())

    def _class(self, kind: type) -> Iterator[tuple[Any, str, bool]]:
        if is_users(kind):
            self._hold(kind, kind.__name__)
            for name, each in tuple(vars(kind).items()):
                yield each, f"{kind.__name__}.{name}", not name.startswith("__")
            yield from ((base, base.__name__, True) for base in kind.__bases__)

    def _instance(self, value: Any, name: str) -> Iterator[tuple[Any, str, bool]]:
        kind = type(value)
        shown = kind.__name__ if is_users(kind) else name
        self._hold(value, shown)
        for attribute, each in (content_of(value) or {}).items():
            yield each, f"{shown}.{attribute}", True
        yield kind, kind.__name__, True

    def _others(self, value: Any, name: str, owned: bool) -> Iterator[tuple[Any, str, bool]]:
        """What is of a library's kind: a wrapped method, a transformed function, a layer."""
        if owned:
            self._hold(value, name)
        for attribute in ("__wrapped__", "__func__", "fget", "fset", "func"):
            each = getattr(value, attribute, None)
            if callable(each):
                yield each, name, owned
        if type(value).__module__.partition(".")[0] not in _PYTHONS:
            for each in tuple(getattr(value, "__dict__", {}).values()):
                yield each, name, False


def _codes(code: Any) -> Iterator[Any]:
    yield code
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _codes(each)


@functools.lru_cache(maxsize=4_096)
def global_names(code: Any) -> frozenset[str]:
    """The names that a function may look up in its module, or on what it found there."""
    return frozenset(name for each in _codes(code) for name in each.co_names)


@functools.lru_cache(maxsize=4_096)
def stored_globals(code: Any) -> frozenset[str]:
    """The variables of its module that a function sets."""
    return frozenset(
        step.argval
        for each in _codes(code)
        for step in dis.get_instructions(each)
        if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")
    )


def _is_random(value: Any) -> bool:
    return value is random or isinstance(getattr(value, "__self__", None), random.Random)


def _is_clock(value: Any) -> bool:
    return value is time or value is time.time


def _names(code: Any, scope: dict[str, Any], module: str, is_it: Callable[[Any], bool]) -> bool:
    """Whether code, or what is defined in it, names a module or something out of it."""
    if any(is_it(scope.get(name)) for name in code.co_names):
        return True
    imports = (each for each in dis.get_instructions(code) if each.opname == "IMPORT_NAME")
    if any(each.argval == module for each in imports):
        return True
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return any(_names(each, scope, module, is_it) for each in inner)
