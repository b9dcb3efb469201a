"""What the host answers with: the random states, read and put back; counters; the clock."""

import contextlib
import itertools
import operator
import random
import time
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

Print = tuple[Any, ...]
"""What tells one state from another."""


def state_of(generator: Any) -> Any:
    """The state of one generator."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    return generator.getstate()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


def fingerprint(generators: Iterable[Any], pythons: bool = True) -> Print:
    """What is other once one of them, or a global one, was drawn from.

    Args:
        generators: Some generators.
        pythons: Whether that of `random` counts, from which type checkers draw as well.
    """
    of_numpy: Any = np.random.get_state()  # noqa: NPY002
    of_others = tuple(repr(state_of(each)) for each in generators)
    of_python = random.getstate() if pythons else None
    return of_numpy[1].tobytes(), of_numpy[2:], of_python, of_others


@contextlib.contextmanager
def random_states_kept(generators: Iterable[Any]) -> Iterator[None]:
    """What the function draws on the host is drawn again by the user."""
    generators = [each for each in generators if not isinstance(each, random.SystemRandom)]
    of_numpy = np.random.get_state()  # noqa: NPY002
    of_python = random.getstate()
    of_others = [state_of(each) for each in generators]
    try:
        yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)
        for each, state in zip(generators, of_others, strict=True):
            _set_state(each, state)


def position_of(iterator: Any) -> Any:
    """What is other once an iterator was asked for the next thing."""
    if isinstance(iterator, itertools.count):
        return repr(iterator)
    if isinstance(iterator, types.GeneratorType):
        frame = iterator.gi_frame
        if frame is None:
            return None
        plain = {k: v for k, v in frame.f_locals.items() if isinstance(v, (int, float, str))}
        return frame.f_lasti, repr(plain)
    return operator.length_hint(iterator, -1)


_MOVED = 1_000_003
"""Seconds: enough to show in a float32 of the time since 1970."""


@contextlib.contextmanager
def clock_moved(scopes: Sequence[dict[str, Any]]) -> Iterator[None]:
    """`time.time` gives another day meanwhile, for two traces within a second to differ.

    Args:
        scopes: Globals in which it may stand under a name of its own.
    """
    real = time.time
    places = [(time.__dict__, "time")]
    places += [(scope, name) for scope in scopes for name in scope if scope[name] is real]

    def moved() -> float:
        return real() + _MOVED

    try:
        for scope, name in places:
            scope[name] = moved
        yield
    finally:
        for scope, name in places:
            scope[name] = real
