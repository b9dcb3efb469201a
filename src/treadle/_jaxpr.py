"""Looking into traced programs."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from jax.extend import core as jex_core


def inner_jaxprs(value: Any) -> Iterator[Any]:
    """The programs in a parameter of an equation."""
    if isinstance(value, jex_core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, jex_core.Jaxpr):
        yield value
    elif isinstance(value, (tuple, list)):
        for element in value:
            yield from inner_jaxprs(element)


def primitives(jaxpr: Any) -> Iterator[str]:
    """The name of every primitive of a program, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for parameter in equation.params.values():
            for inner in inner_jaxprs(parameter):
                yield from primitives(inner)


def slow_in_a_loop(jaxpr: Any) -> bool:
    """Whether XLA would run the program several times slower as the body of a loop.

    Its CPU backend runs convolutions inside loops 5 to 10 times slower than outside (measured: a
    CNN with four microbatches took 246 ms a step in a `lax.scan` and 23 ms unrolled).
    """
    return jax.default_backend() == "cpu" and "conv_general_dilated" in primitives(jaxpr)


def ancestors(makers: Mapping[Any, Any], atoms: Iterable[Any]) -> set[int]:
    """The equations that some variables come of, by their `id`.

    Args:
        makers: For each variable the equation that makes it.
        atoms: The variables.
    """
    found: set[int] = set()
    waiting = list(atoms)
    while waiting:
        atom = waiting.pop()
        maker = None if hasattr(atom, "val") else makers.get(atom)
        if maker is not None and id(maker) not in found:
            found.add(id(maker))
            waiting.extend(maker.invars)
    return found
