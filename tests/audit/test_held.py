"""What a function can reach: changes are seen, told where, and tracers taken out again."""

import collections
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from treadle._audit._purity._held import Held

COUNT = 0


class Trainer:
    total = 0

    def __init__(self):
        self.steps, self.log = 0, {}

    def step(self, x):
        self.steps += 1
        type(self).total += 1
        self.log["x"] = x
        return x


def changed(value):
    """What a function changes that keeps a value wherever it can."""
    things = [], {}, set(), collections.deque(), np.zeros(2)
    trainer, count = Trainer(), None

    def fn(x):
        global COUNT
        nonlocal count
        COUNT = count = x
        things[0].append(x)
        things[1]["b"] = x
        things[3].append(x)
        trainer.log["x"] = x
        if not isinstance(x, Tracer):
            things[2].add(x)
            things[4][0] = x
            trainer.step(x)
        return x

    held = Held(fn)
    assert held.changes() == []
    jax.jit(fn)(1.0) if value is None else fn(value)
    found = held.changes()
    held.take_back_tracers()
    return found, held.changes(), (things, trainer, COUNT)


def test_changes_are_told_and_stay():
    found, after, (things, trainer, count) = changed(3)
    assert {change.name for change in found} >= {"COUNT", "count", "things", "Trainer.steps"}
    assert not any(change.leaks for change in found)
    assert len(after) == len(found)
    assert (count, trainer.steps, things[0], things[4][0]) == (3, 1, [3], 3)


def test_tracers_are_told_and_taken_out():
    found, after, (things, trainer, count) = changed(None)
    assert {change.name for change in found} >= {"COUNT", "count", "things"}
    assert all(change.leaks for change in found)
    assert after == []
    assert not isinstance(count, Tracer)
    assert things[:4] == ([], {}, set(), collections.deque())
    assert trainer.log == {}


def test_reading_is_no_change():
    table = {"a": [1.0, float("nan")]}

    def read():
        return sum(table["a"])

    held = Held(read)
    read()
    assert held.changes() == []


def test_where_it_is_told():
    kept = []

    def fn(x):
        kept.append({"deep": (x,)})
        return x

    held = Held(jax.jit(fn))
    jax.jit(fn)(jnp.ones(2))
    (change,) = held.changes()
    assert (change.name, change.leaks) == ("kept", True)
    held.put_back()
    assert kept == []
    with held.witness([change]) as witness:
        jax.jit(fn)(jnp.ones(3))
    (change,) = held.placed([change], witness)
    assert change.place is not None
    assert change.place.line == fn.__code__.co_firstlineno + 1


def test_a_cached_property_is_no_change_unless_it_keeps_a_tracer():
    class Tables:
        @functools.cached_property
        def sizes(self):
            return [1, 2]

        @functools.cached_property
        def mask(self):
            return jnp.ones(3) * 2

    for name, leaks in (("sizes", []), ("mask", [True])):
        tables = Tables()
        fn = jax.jit(lambda x, tables=tables, name=name: getattr(tables, name)[0] * x)
        held = Held(fn)
        fn(1.0)
        assert [change.leaks for change in held.changes()] == leaks


def test_a_class_of_a_module_that_is_not_listed_is_the_users():
    # As of a file that was loaded by its path.
    kept: Any = type("Kept", (), {"__module__": "a_module_that_nobody_listed"})()

    def fn(x):
        kept.last = x
        return x

    held = Held(fn)
    jax.jit(fn)(1.0)
    (change,) = held.changes()
    assert (change.name, change.leaks) == ("Kept.last", True)
