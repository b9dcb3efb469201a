"""What is in an object that can be changed, and how to put it back."""

import argparse
import collections
import contextvars
import functools
import gc
import itertools
import queue
import random
import sys
import threading
import types
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from .._source import library_of

_BIGGEST = 2**20
"""Bytes of an array that is kept to compare with."""

_LOOKED_AT = 500
"""Objects in which a tracer is looked for."""

_OPEN = (argparse.Namespace, queue.Queue, threading.local, types.SimpleNamespace)
"""Python's own kinds of objects whose attributes are the user's."""

_LRU = type(functools.lru_cache(lambda: None))

Generators = (np.random.Generator, np.random.RandomState, random.Random)

Iterators = (itertools.count, types.GeneratorType, type(iter([])))


class Variables(NamedTuple):
    """Some of a module's variables."""

    namespace: dict[str, Any]
    names: frozenset[str]


def is_users(kind: type) -> bool:
    """Whether a class is the user's own."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if file is not None:
        return library_of(file) is None
    # In a notebook, and in what was run from a string, a module has no file; and what was loaded by
    # its path need not be listed at all.
    return module is None or kind.__module__ == "__main__"


def is_open(kind: type) -> bool:
    """Whether what is in an object of a class is the user's."""
    return kind in _OPEN or is_users(kind)


def content_of(value: Any) -> dict[Any, Any] | None:
    """What is in an object that can be changed, by index, key or name; `None` for any other."""
    for kinds, look in _CONTENT:
        if isinstance(value, kinds):
            return look(value)
    if is_open(type(value)):
        return _attributes(value)
    return None


def _of_cell(cell: Any) -> dict[Any, Any]:
    try:
        return {"cell_contents": cell.cell_contents}
    except ValueError:  # Nothing was put into it yet.
        return {}


def _of_array(array: np.ndarray) -> dict[Any, Any] | None:
    if array.dtype == object:
        return dict(enumerate(array.flat))
    return {"": array.tobytes()} if array.nbytes <= _BIGGEST else None


def _of_class(kind: type) -> dict[Any, Any] | None:
    if not is_users(kind):
        return None
    return {name: each for name, each in vars(kind).items() if not _is_pythons(name)}


def _of_function(function: Any) -> dict[Any, Any] | None:
    return {name: each for name, each in vars(function).items() if not _is_pythons(name)}


def _of_lru(wrapper: Any) -> dict[Any, Any]:
    """Only what leaks: that a result is kept for the next time is what a cache is for."""
    kept = [each for each in gc.get_referents(wrapper) if each is not wrapper.__wrapped__]
    return {id(each): each for each in kept if has_tracer(each)}


def _of_variables(variables: Variables) -> dict[Any, Any]:
    namespace = variables.namespace
    return {name: namespace[name] for name in variables.names if name in namespace}


def _attributes(value: Any) -> dict[Any, Any]:
    found = dict(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if not _is_pythons(name) and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _is_pythons(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("__")


_CONTENT: list[tuple[Any, Any]] = [
    (Variables, _of_variables),
    (types.CellType, _of_cell),
    (np.ndarray, _of_array),
    (dict, dict),
    ((list, collections.deque), lambda value: dict(enumerate(value))),
    (bytearray, lambda value: {"": bytes(value)}),
    (set, lambda value: {each: each for each in value}),
    (type, _of_class),
    (types.FunctionType, _of_function),
    (_LRU, _of_lru),
    (contextvars.ContextVar, lambda value: {"": value.get(None)}),
]


def is_cached(holder: Any, key: Any, value: Any) -> bool:
    """Whether it is a `cached_property` that was asked for the first time."""
    made = getattr(type(holder), key, None) if isinstance(key, str) else None
    return isinstance(made, functools.cached_property) and not has_tracer(value)


def is_other(now: Any, before: Any) -> bool:
    """Whether something else stands there."""
    if now is before:
        return False
    plain = (int, float, complex, str, bytes, bool)
    return not (isinstance(now, plain) and type(now) is type(before) and now == before)


def has_tracer(value: Any) -> bool:
    """Whether a tracer lies in a value: in its leaves, attributes, what a function captures."""
    waiting, seen = [value], set()
    while waiting and len(seen) < _LOOKED_AT:
        each = waiting.pop()
        if isinstance(each, Tracer):
            return True
        if id(each) not in seen and not isinstance(each, _NO_HOLDERS):
            seen.add(id(each))
            waiting.extend(_parts(each))
    return False


_NO_HOLDERS = (jax.Array, np.generic, str, bytes, int, float, complex, type(None), type)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.values()]
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return [*value]
    if isinstance(value, np.ndarray):
        return [*value.flat] if value.dtype == object else []
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, types.FunctionType):
        cells = [each for cell in value.__closure__ or () for each in _of_cell(cell).values()]
        return [*cells, *(value.__defaults__ or ())]
    if isinstance(value, types.ModuleType):
        return []
    if type(value).__name__ == "_lru_list_elem":  # What `functools.lru_cache(maxsize=...)` keeps.
        return gc.get_referents(value)
    return [*_attributes(value).values()] or jax.tree.leaves(value)


def put_back(value: Any, content: dict[Any, Any]) -> None:
    """Makes an object what it was."""
    if isinstance(value, Variables):
        for name in value.names - content.keys():
            value.namespace.pop(name, None)
        value.namespace.update(content)
    elif isinstance(value, types.CellType):
        if content:
            value.cell_contents = content["cell_contents"]
        elif _of_cell(value):
            del value.cell_contents
    elif isinstance(value, dict):
        dict.clear(value)
        dict.update(value, content)
    elif isinstance(value, list):
        value[:] = content.values()
    elif isinstance(value, (collections.deque, set)):
        value.clear()
        (value.extend if isinstance(value, collections.deque) else value.update)(content.values())
    elif isinstance(value, np.ndarray):
        _put_back_array(value, content)
    elif isinstance(value, bytearray):
        value[:] = content[""]
    elif isinstance(value, _LRU):
        value.cache_clear()
    elif isinstance(value, contextvars.ContextVar):
        value.set(content[""])
    else:
        _put_back_attributes(value, content)


def _put_back_array(array: np.ndarray, content: dict[Any, Any]) -> None:
    if array.dtype == object:
        for at, each in content.items():
            array.flat[at] = each
    elif array.flags.writeable:
        array.flat[:] = np.frombuffer(content[""], array.dtype)


def _put_back_attributes(value: Any, content: dict[Any, Any]) -> None:
    now = content_of(value) or {}
    # Past the `__setattr__` of frozen dataclasses.
    plain = isinstance(value, (type, threading.local))
    store = setattr if plain else object.__setattr__
    remove = delattr if plain else object.__delattr__
    for name in now.keys() - content.keys():
        remove(value, name)
    for name, each in content.items():
        if name not in now or now[name] is not each:
            store(value, name, each)
