"""What an audit looks at: a function traced twice, lowered and compiled, and never run."""

import contextlib
import dataclasses
import functools
import inspect
import time
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.extend import core as jex_core

from .._batch import num_examples
from .._errors import ArgumentTypeError
from .._evaluate import EvalStep
from .._jaxpr import inner_jaxprs
from .._state import TrainState, pack_args
from .._step import TrainStep
from .._weights import packed, pair_of
from ..tree._paths import flatten_with_paths, join
from ._callbacks import calls_back_backward
from ._flow import Flow, flow_of
from ._keys._lineage import Lineage
from ._private import (
    counters_kept,
    filtered_call,
    filtered_output,
    held_arrays,
    is_array_of_keys,
    is_backward,
    is_filter_jitted,
    is_jitted,
    is_nnx_jitted,
    keys_like,
    nnx_arguments,
    nnx_trace,
    without_caches,
)
from ._purity._comparison import Difference, differences
from ._purity._held import Change, Held
from ._purity._host import clock_moved, fingerprint, random_states_kept
from ._purity._witness import Read
from ._source import Place, function_place


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """One array that goes into the program, or comes out of it.

    Attributes:
        index: Its place among all that go in, or come out.
        path: `"model/layers/0/weight"`.
        aval: Its shape, dtype and weak type.
        donated: Whether the caller gives its memory away.
        value: The array itself, of what goes in.
    """

    index: int
    path: str
    aval: Any
    donated: bool = False
    value: Any = None

    @property
    def nbytes(self) -> int:
        """Its size."""
        return int(self.aval.size) * int(self.aval.dtype.itemsize)


@dataclasses.dataclass(frozen=True)
class Static:
    """A leaf that is part of the program: a function, a number."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of the function.

    Attributes:
        name: As in the function's signature.
        tree: The argument, a `Leaf` for each array, and `Static` for the rest.
    """

    name: str
    tree: Any

    @property
    def leaves(self) -> list[Leaf]:
        """Its arrays."""
        return leaves_of(self.tree)


def leaves_of(tree: Any) -> list[Leaf]:
    """The arrays of a tree of leaves."""
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, Leaf)]


@dataclasses.dataclass(frozen=True)
class Call:
    """A function ready to be traced.

    Attributes:
        kind: `"step"`, `"eval"`, `"filter_jit"`, `"jit"`, `"nnx_jit"` or `"plain"`.
        fn: The user's function.
        trace: Traces it.
        inputs: Makes the arguments from the numbers and types of all leaves that go in.
        output: Makes what comes out from its leaves, in the structure that the user sees.
        names: Of the leaves that come out, if the structure does not have them.
    """

    kind: str
    fn: Any
    trace: Callable[[], Any]
    inputs: Callable[[Any, Any], list[Argument]]
    output: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What was traced and compiled.

    Attributes:
        kind: `"step"`, `"eval"`, `"filter_jit"`, `"jit"`, `"nnx_jit"` or `"plain"`.
        name: The user's name for the function.
        place: Where it is.
        jaxpr: The program, a `ClosedJaxpr`.
        differing: Where it differs from the same function traced for the second time.
        reads: Where the host was asked for what is another each time, if something was found.
        callbacks: The lines that ask JAX to call back, if something was found.
        inputs: The arguments.
        output: What comes out, a `Leaf` for each array.
        executable: As XLA compiled it.
        seconds: To trace, to lower, to compile.
        changes: What the function can reach and changed while it was traced.
    """

    kind: str
    name: str
    place: Place | None
    jaxpr: Any
    differing: tuple[Difference, ...]
    reads: tuple[Read, ...]
    callbacks: tuple[Place, ...]
    inputs: list[Argument]
    output: Any
    executable: Any
    seconds: tuple[float, float, float]
    changes: tuple[Change, ...]

    @functools.cached_property
    def lineage(self) -> Lineage:
        """Its keys."""
        return Lineage(self.jaxpr)

    @functools.cached_property
    def flow(self) -> Flow:
        """What comes of what."""
        return flow_of(self.jaxpr)

    @functools.cached_property
    def leaves(self) -> list[Leaf]:
        """All arrays that go in, in the program's order."""
        found = [leaf for argument in self.inputs for leaf in argument.leaves]
        return sorted(found, key=lambda leaf: leaf.index)

    @functools.cached_property
    def input_shardings(self) -> list[Any]:
        """Where each array that goes in lies; `None` for what the program does not read."""
        # A sharding that is `None` would vanish when flattened.
        _, treedef = jax.tree.flatten(self.executable.args_info)
        return treedef.flatten_up_to(self.executable.input_shardings)

    @functools.cached_property
    def output_shardings(self) -> list[Any]:
        """Where each array that comes out lies."""
        return jax.tree.leaves(
            self.executable.output_shardings,
            is_leaf=lambda leaf: isinstance(leaf, jax.sharding.Sharding),
        )

    @functools.cached_property
    def is_compiled(self) -> bool:
        """Whether it is under `jit`, or does little more than call one function that is."""
        return self.kind != "plain" or _only_calls(self.jaxpr.jaxpr)

    @functools.cached_property
    def trains(self) -> bool:
        """Whether it differentiates something."""
        return _differentiates(self.jaxpr.jaxpr)

    @functools.cached_property
    def num_equations(self) -> int:
        """Equations, those of inner programs included, each program as often as it is called."""
        return _count(self.jaxpr.jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(
        1 + sum(_count(inner) for value in eqn.params.values() for inner in inner_jaxprs(value))
        for eqn in jaxpr.eqns
    )


_SMALL = 2
"""Equations of a compiled function that is not worth the name."""

_AROUND = frozenset(
    {
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "random_fold_in",
        "random_split",
        "random_unwrap",
        "random_wrap",
        "reshape",
        "slice",
        "squeeze",
    }
)
"""What may be done around a compiled function: keys are split, arrays are taken apart."""


def _only_calls(jaxpr: Any) -> bool:
    """Whether a program does little more than call one function under `jit` or `pmap`."""
    calls = [equation for equation in jaxpr.eqns if equation.primitive.name not in _AROUND]
    if len(calls) != 1:
        return False
    inner = [each for value in calls[0].params.values() for each in inner_jaxprs(value)]
    if calls[0].primitive.name == "xla_pmap":
        return True
    if calls[0].primitive.name not in ("jit", "pjit"):
        return False
    names = [equation.primitive.name for equation in inner[0].eqns]
    if names == ["shard_map"]:
        return True  # `jax.pmap` since JAX 0.8.
    if str(calls[0].params.get("name", "_")).startswith("_"):
        return False  # JAX's own.
    return len(names) > _SMALL


def _differentiates(jaxpr: Any) -> bool:
    return any(
        is_backward(eqn)
        or any(_differentiates(inner) for v in eqn.params.values() for inner in inner_jaxprs(v))
        for eqn in jaxpr.eqns
    )


# -- how each kind of function is called ----------------------------------------------------------


def _marked(tree: Any, name: str, numbers: Any, infos: Any) -> Any:
    """A tree with a `Leaf` for each array.

    Args:
        tree: The argument as it was given.
        name: What the user calls it.
        numbers: For each leaf its place among all that go in; `None` for one that is static.
        infos: What JAX says of each that goes in, by its place.
    """
    paths, treedef = flatten_with_paths(tree)
    leaves = []
    for (path, value), number in zip(paths, numbers, strict=True):
        if number is None:
            leaves.append(Static(value))
        else:
            info = infos[number]
            leaves.append(Leaf(number, join(name, path), info.aval, info.donated, value))
    return jax.tree.unflatten(treedef, leaves)


@dataclasses.dataclass(frozen=True)
class _Info:
    """What is known of one array that goes in."""

    aval: Any
    donated: bool


def _parameter_names(fn: Any) -> list[str]:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in plain]


def _name_at(names: list[str], at: int) -> str:
    return names[at] if at < len(names) else f"args[{at}]"


def _of_step(step: TrainStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    given = inspect.signature(TrainStep.__call__).bind(step, *args, **kwargs).arguments
    state, batch, extra = given["state"], given["batch"], given.get("args")
    step._require_arguments(state, extra)
    packed = None if extra is None else pack_args(extra)

    def trace() -> Any:
        known = len(step._log.entries)
        try:
            return step._step.trace(state, batch, packed)
        finally:
            step._log.forget(known)

    def inputs(numbers: Any, infos: Any) -> list[Argument]:
        (of_state, of_batch, of_args), _ = numbers
        paths = state.leaf_paths()
        marked = TrainState(
            tuple(
                Leaf(number, f"state.{path}", infos[number].aval, infos[number].donated, leaf)
                for path, number, leaf in zip(paths, of_state.leaves, state.leaves, strict=True)
            ),
            state.skeleton,
        )
        found = [
            Argument("state", marked),
            Argument("batch", _marked(batch, "batch", jax.tree.leaves(of_batch), infos)),
        ]
        if packed is not None:
            tree = _marked(packed, "args", jax.tree.leaves(of_args), infos)
            found.append(Argument("args", tree))
        return found

    loss = step._spec.loss.call.loss_fn
    return Call("step", loss, trace, inputs, lambda out: out[:2])


def _of_eval(step: EvalStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    if len(args) != 2 or kwargs:
        raise ArgumentTypeError(
            f"`audit` of an `EvalStep` takes a model (or a state) and a batch, and got "
            f"{len(args)} arguments: `treadle.audit(eval_step, model, batch)`."
        )
    bundle = packed(pair_of(args[0], "model"))
    weights = np.ones(num_examples(args[1]), np.float32)

    def trace() -> Any:
        known = step._compilations
        try:
            return step._program.trace(bundle, args[1], weights, False)
        finally:
            step._compilations = known

    def inputs(numbers: Any, infos: Any) -> list[Argument]:
        (of_model, of_batch, of_weights), _ = numbers
        given = (bundle, "model", of_model), (args[1], "batch", of_batch)
        found = [
            Argument(name, _marked(tree, name, jax.tree.leaves(number), infos))
            for tree, name, number in given
        ]
        tree = _marked(weights, "weights", jax.tree.leaves(of_weights), infos)
        return [*found, Argument("weights", tree)]

    return Call("eval", step._metric_fn, trace, inputs, lambda out: out)


def _of_jit(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    names = _parameter_names(fn)

    def inputs(numbers: Any, infos: Any) -> list[Argument]:
        positional, named = numbers
        waiting = list(positional)
        found = []
        for at, value in enumerate(args):
            # What JAX does not list is static.
            rest = len(args) - at > len(waiting)
            if not waiting or (rest and not _fits(waiting[0], value, infos)):
                continue
            name = _name_at(names, at)
            tree = _marked(value, name, jax.tree.leaves(waiting.pop(0)), infos)
            found.append(Argument(name, tree))
        for name, number in named.items():
            tree = _marked(kwargs[name], name, jax.tree.leaves(number), infos)
            found.append(Argument(name, tree))
        return found

    return Call("jit", fn, lambda: fn.trace(*args, **kwargs), inputs, lambda out: out)


def _fits(numbers: Any, value: Any, infos: Any) -> bool:
    """Whether what JAX lists next can be this argument."""
    if jax.tree.structure(numbers) != jax.tree.structure(value):
        return False
    pairs = zip(jax.tree.leaves(numbers), jax.tree.leaves(value), strict=True)
    return all(_shape(each) == infos[number].aval.shape for number, each in pairs)


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of an array, of a number, or of what stands for one; `None` for anything else."""
    if isinstance(value, (bool, int, float, complex, np.generic)):
        return ()
    shape = getattr(value, "shape", None)
    return shape if isinstance(shape, tuple) else None


def _of_nnx_jit(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """A function under `nnx.jit`: its modules go in, and come out again, as trees of arrays."""
    call = _of_jit(fn, *nnx_arguments(fn, args, kwargs))
    return dataclasses.replace(call, kind="nnx_jit", trace=lambda: nnx_trace(fn, args, kwargs))


def _of_filter_jit(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], kind: str = "filter_jit"
) -> Call:
    args, kwargs = jax.tree.map(_standing_in, (args, kwargs))
    call = filtered_call(fn, args, kwargs)
    bound, by_name = call.bound
    held = held_arrays(fn)
    names = _parameter_names(held)

    def inputs(numbers: Any, infos: Any) -> list[Argument]:
        (donated, kept, *_), _ = numbers
        parts = {**donated, **kept}
        first = bound[0] if bound else None
        found = []
        if bound:
            tree = _marked(first, _name_at(names, 0), parts["first"], infos)
            found.append(Argument(_name_at(names, 0), tree))
        rest = list(parts["rest"])
        for at, value in enumerate(bound[1:], 1):
            count = len(jax.tree.leaves(value))
            taken, rest = rest[:count], rest[count:]
            name = _name_at(names, at)
            found.append(Argument(name, _marked(value, name, taken, infos)))
        for name in sorted(by_name):
            count = len(jax.tree.leaves(by_name[name]))
            taken, rest = rest[:count], rest[count:]
            found.append(Argument(name, _marked(by_name[name], name, taken, infos)))
        found.append(Argument("self", _marked(held, "self", parts["fun"], infos)))
        return found

    def output(out: Any) -> Any:
        return filtered_output(out)

    return Call(kind, held, lambda: call.jitted.trace(*call.args), inputs, output)


def _standing_in(leaf: Any) -> Any:
    """An array without memory for a `jax.ShapeDtypeStruct`, which Equinox takes for a static."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if not is_array_of_keys(leaf):
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return keys_like(leaf)


def _called(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    if isinstance(fn, TrainStep):
        return _of_step(fn, args, kwargs)
    if isinstance(fn, EvalStep):
        return _of_eval(fn, args, kwargs)
    if is_jitted(fn):
        return _of_jit(fn, args, kwargs)
    if is_filter_jitted(fn):
        return _of_filter_jit(fn, args, kwargs)
    if is_nnx_jitted(fn):
        return _of_nnx_jit(fn, args, kwargs)
    if not callable(fn) or isinstance(fn, jax.stages.Compiled):
        raise ArgumentTypeError(
            f"`fn` (={fn!r}) is a {type(fn).__name__}, not a function: hand over a `TrainStep`, or "
            f"the function that makes one step, and its arguments after it."
        )
    partial = _partial(fn)
    if partial is not None:
        return _called(partial.func, (*partial.args, *args), {**partial.keywords, **kwargs})
    return _of_filter_jit(eqx.filter_jit(fn), args, kwargs, "plain")


def _partial(fn: Any) -> Any:
    """A compiled function with its first arguments; `None` if it is anything else.

    That is a partial application, also of a step of treadle's, a method that is compiled, or a
    compiled `__call__`.
    """
    for each in (fn, getattr(fn, "__call__", None)):  # noqa: B004
        if inspect.ismethod(each):
            each = functools.partial(each.__func__, each.__self__)
        inner = getattr(each, "func", None)
        if isinstance(inner, (TrainStep, EvalStep)):
            return each
        if is_jitted(inner) or is_filter_jitted(inner) or is_nnx_jitted(inner):
            return each
        if inner is not None and _partial(inner) is not None:
            return each
    return None


# -- tracing ---------------------------------------------------------------------------------------


_MOST_TRACES = 8
"""Traces that are made where the host is drawn from, and the first two came out the same."""


def load(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
    """Traces a function twice, lowers and compiles it.

    Raises:
        ArgumentTypeError: `fn` is no function, or the arguments are not a step's.
    """
    call = _called(fn, args, kwargs)
    models = [each.model if isinstance(each, TrainState) else each for each in args]
    # What is applied in part, or a method, holds arguments of its own.
    bound = None if isinstance(fn, (TrainStep, EvalStep)) else _partial(fn)
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


def _infos(call: Call, traced: Any) -> list[_Info]:
    infos = jax.tree.leaves(traced.args_info)
    found = [_Info(a, i.donated) for a, i in zip(traced.jaxpr.in_avals, infos, strict=True)]
    return _donated_inside(found, traced.jaxpr.jaxpr) if call.kind == "plain" else found


def _with_donations(call: Call, traced: Any, infos: list[_Info]) -> Any:
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


def _donated_inside(infos: list[_Info], jaxpr: Any) -> list[_Info]:
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
