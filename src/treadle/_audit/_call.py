"""How each kind of function is traced, and which of its arguments each array belongs to."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._batch import num_examples
from .._errors import ArgumentTypeError
from .._evaluate import EvalStep
from .._state import TrainState, pack_args
from .._step import TrainStep
from .._weights import packed, pair_of
from ..tree._paths import flatten_with_paths, join
from ._leaf import Argument, Leaf, Static
from ._private import (
    filtered_call,
    filtered_output,
    held_arrays,
    is_array_of_keys,
    is_filter_jitted,
    is_jitted,
    is_nnx_jitted,
    keys_like,
    nnx_arguments,
    nnx_trace,
)


@dataclasses.dataclass(frozen=True)
class Call:
    """A function ready to be traced.

    Attributes:
        kind: `"step"`, `"eval"`, `"filter_jit"`, `"jit"`, `"nnx_jit"` or `"plain"`.
        fn: The user's function.
        trace: Traces it.
        inputs: Makes the arguments from the numbers and types of all leaves that go in.
        output: Makes what comes out from its leaves, in the structure that the user sees.
    """

    kind: str
    fn: Any
    trace: Callable[[], Any]
    inputs: Callable[[Any, Any], list[Argument]]
    output: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Info:
    """What is known of one array that goes in."""

    aval: Any
    donated: bool


def called(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """How a function of any kind is called with some arguments.

    Raises:
        ArgumentTypeError: `fn` is no function, or the arguments are not a step's.
    """
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
    partial = partial_of(fn)
    if partial is not None:
        return called(partial.func, (*partial.args, *args), {**partial.keywords, **kwargs})
    return _of_filter_jit(eqx.filter_jit(fn), args, kwargs, "plain")


def partial_of(fn: Any) -> Any:
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
        if inner is not None and partial_of(inner) is not None:
            return each
    return None


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


def _parameter_names(fn: Any) -> list[str]:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in plain]


def _name_at(names: list[str], at: int) -> str:
    return names[at] if at < len(names) else f"args[{at}]"
