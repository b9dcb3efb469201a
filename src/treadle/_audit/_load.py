"""A function is traced twice, lowered and compiled, and never run."""

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core as jex_core

from .._evaluate import EvalStep
from .._state import TrainState
from .._step import TrainStep
from ..tree._paths import flatten_with_paths
from ._call import Call, Info, called, partial_of
from ._callbacks import calls_back_backward
from ._leaf import Leaf, Static
from ._private import counters_kept, without_caches
from ._program import Program
from ._purity._comparison import Difference, differences
from ._purity._held import Held
from ._purity._host import clock_moved, fingerprint, random_states_kept
from ._source import function_place

_MOST_TRACES = 8
"""Traces that are made where the host is drawn from, and the first two came out the same."""


def load(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
    """Traces a function twice, lowers and compiles it.

    Raises:
        ArgumentTypeError: `fn` is no function, or the arguments are not a step's.
    """
    call = called(fn, args, kwargs)
    models = [each.model if isinstance(each, TrainState) else each for each in args]
    # What is applied in part, or a method, holds arguments of its own.
    bound = None if isinstance(fn, (TrainStep, EvalStep)) else partial_of(fn)
    held = Held(call.fn, (models, kwargs, bound))
    with contextlib.ExitStack() as kept:
        kept.enter_context(random_states_kept(held.generators))
        start_counting = kept.enter_context(counters_kept())
        kept.enter_context(warnings.catch_warnings())
        # Told by a rule.
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")

        def trace() -> Any:
            start_counting()
            with without_caches():
                return call.trace()

        # Type checkers draw from Python's `random` as well.
        drawn = fingerprint(held.generators, pythons=held.names_random)
        again = trace().jaxpr
        changes = held.changes()
        held.take_back_tracers()
        start = time.perf_counter()
        traced = trace()
        at_trace = time.perf_counter()
        held.take_back_tracers()
        with without_caches():
            infos = _infos(call, traced)
            lowered = _with_donations(call, traced, infos).lower()
            at_lower = time.perf_counter()
            executable = lowered.compile()
            done = time.perf_counter()
        differing = list(differences(traced.jaxpr, again))
        if not differing and drawn != fingerprint(held.generators, pythons=held.names_random):
            with held.witness([]) as witness:
                trace()
            held.take_back_tracers()
            if witness.reads:  # By the user, and not by a type checker.
                differing = _of_more_traces(trace, held, traced.jaxpr)
        if not differing and held.clocked:
            with clock_moved(held.clocked):
                differing = list(differences(traced.jaxpr, trace().jaxpr))
            held.take_back_tracers()
        witness = held.witness(changes)
        if changes or differing or calls_back_backward(traced.jaxpr.jaxpr):
            held.put_back()
            with witness:
                trace()
            changes = held.placed(changes, witness)
            held.take_back_tracers()
    numbers = jax.tree.unflatten(jax.tree.structure(traced.args_info), range(len(infos)))
    return Program(
        kind=call.kind,
        name=_name_of(call.fn),
        place=function_place(call.fn),
        jaxpr=traced.jaxpr,
        differing=tuple(differing),
        reads=tuple(witness.reads),
        callbacks=tuple(witness.callbacks),
        inputs=call.inputs(numbers, infos),
        output=_outputs(call, traced),
        executable=executable,
        seconds=(at_trace - start, at_lower - at_trace, done - at_lower),
        changes=tuple(changes),
    )


def _of_more_traces(trace: Callable[[], Any], held: Held, first: Any) -> list[Difference]:
    """Where a function that draws on the host differs, once it does: coins may fall alike."""
    for _ in range(_MOST_TRACES):
        found = list(differences(first, trace().jaxpr))
        held.take_back_tracers()
        if found:
            return found
    return []


def _infos(call: Call, traced: Any) -> list[Info]:
    infos = jax.tree.leaves(traced.args_info)
    found = [Info(a, i.donated) for a, i in zip(traced.jaxpr.in_avals, infos, strict=True)]
    return _donated_inside(found, traced.jaxpr.jaxpr) if call.kind == "plain" else found


def _with_donations(call: Call, traced: Any, infos: list[Info]) -> Any:
    """The program, and it gives away what a compiled function in it does, if that is all there is.

    JAX heeds what is donated only where a program begins.
    """
    gone = tuple(at for at, info in enumerate(infos) if info.donated)
    if call.kind != "plain" or not gone:
        return traced
    whole = jax.jit(jex_core.jaxpr_as_fun(traced.jaxpr), donate_argnums=gone)
    return whole.trace(*(_like(aval) for aval in traced.jaxpr.in_avals))


def _like(aval: Any) -> Any:
    weak = bool(getattr(aval, "weak_type", False))
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=weak)


def _donated_inside(infos: list[Info], jaxpr: Any) -> list[Info]:
    """A function that only calls a compiled one donates what that does."""
    places = {var: at for at, var in enumerate(jaxpr.invars)}
    found = list(infos)
    for equation in jaxpr.eqns:
        donated = equation.params.get("donated_invars", ())
        for var, gone in zip(equation.invars, donated, strict=False):
            if gone and not hasattr(var, "val") and var in places:
                found[places[var]] = dataclasses.replace(found[places[var]], donated=True)
    return found


def _outputs(call: Call, traced: Any) -> Any:
    leaves, treedef = jax.tree.flatten(traced.out_info)
    avals = traced.jaxpr.out_avals
    marked = [Leaf(at, "", aval) for at, (_, aval) in enumerate(zip(leaves, avals, strict=True))]
    out = call.output(jax.tree.unflatten(treedef, marked))
    paths, treedef = flatten_with_paths(out)
    return jax.tree.unflatten(
        treedef,
        [
            dataclasses.replace(leaf, path=path) if isinstance(leaf, Leaf) else Static(leaf)
            for path, leaf in paths
        ],
    )


def _name_of(fn: Any) -> str:
    for name in ("__qualname__", "__name__"):
        if isinstance(getattr(fn, name, None), str):
            return getattr(fn, name).replace("<locals>.", "")
    return type(fn).__name__
