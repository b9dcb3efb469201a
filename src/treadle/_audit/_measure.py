"""Reading what a program costs."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax.extend import core as jex_core

from .._cost import StepCost, xla_figures
from .._jaxpr import inner_jaxprs
from ._figures import Figures
from ._leaf import Leaf, leaves_of
from ._program import Program
from ._states import State


def measure(program: Program, states: Iterable[State]) -> Figures:
    """Reads the figures of a program."""
    of_state = {leaf.index for state in states for leaf in leaves_of(state.given)}
    if program.kind == "step":
        of_state = {leaf.index for leaf in program.inputs[0].leaves}
    sizes = sizes_on_device(program)
    trace, lower, compile_ = program.seconds
    return Figures(
        equations=program.num_equations,
        draws=program.lineage.draws,
        model_flops=StepCost(program.jaxpr, 1, set(jax.local_devices()[:1])).flops,
        **_known(xla_figures(program.executable)._asdict()),
        state_bytes=sum(size for at, size in sizes.items() if at in of_state),
        batch_bytes=sum(size for at, size in sizes.items() if at not in of_state),
        constant_bytes=sum(constant.nbytes for constant in constants_of(program)),
        donated_bytes=sum(leaf.nbytes for leaf in program.leaves if leaf.donated),
        trace_seconds=trace,
        lower_seconds=lower,
        compile_seconds=compile_,
    )


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures without those that XLA does not know, as of a program that calls back: -1."""
    return {name: None if each is None or each < 0 else each for name, each in figures.items()}


def constants_of(program: Program) -> list[Any]:
    """The arrays that are part of the program, each once."""
    found = {id(each): each for each in _consts(program.jaxpr) if hasattr(each, "nbytes")}
    return list(found.values())


def _consts(closed: Any) -> Iterator[Any]:
    yield from closed.consts
    waiting = [closed.jaxpr]
    while waiting:
        for equation in waiting.pop().eqns:
            for value in equation.params.values():
                waiting.extend(inner_jaxprs(value))
                for each in value if isinstance(value, (tuple, list)) else (value,):
                    if isinstance(each, jex_core.ClosedJaxpr):
                        yield from each.consts


def sizes_on_device(program: Program) -> dict[int, int]:
    """What each argument takes on each device; what the program does not read is left out."""
    shardings = program.input_shardings
    return {
        leaf.index: math.prod(where.shard_shape(leaf.aval.shape)) * leaf.aval.dtype.itemsize
        for leaf, where in zip(program.leaves, shardings, strict=True)
        if where is not None
    }


_TOKENS = re.compile(r"entry_computation_layout=\{\(((?:token\[\](?:, )?)*)")
_ALIAS = re.compile(r"\{[\d, ]*\}: \((\d+), \{[\d, ]*\}, [\w-]+\)")


def aliased_arguments(program: Program) -> set[int]:
    """The arguments whose memory the compiled program reuses for what comes out."""
    header = program.executable.as_text().split("\n", 1)[0]
    start = header.find("input_output_alias={")
    if start < 0:
        return set()
    numbers = [int(number) for number in _ALIAS.findall(_braces(header[start:]))]
    # XLA counts only what the program reads, and in front of it a token for each kind of ordered
    # effect.
    shardings = program.input_shardings
    kept = [at for at, where in enumerate(shardings) if where is not None]
    found = _TOKENS.search(header)
    tokens = 0 if found is None else found[1].count("token[]")
    return {kept[number - tokens] for number in numbers if number >= tokens}


def _braces(text: str) -> str:
    """From the first brace to the one that closes it."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if letter == "}" and depth == 0:
            return text[: at + 1]
    return text


def donated(leaves: Iterable[Leaf]) -> list[Leaf]:
    """Those of some leaves that are donated."""
    return [leaf for leaf in leaves if leaf.donated]
