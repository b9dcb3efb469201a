"""The private names of JAX and Equinox that an audit needs, all of them."""

import contextlib
import functools
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from .._diagnose import RawFrame as RawFrame
from .._diagnose import raw_frames as raw_frames


def traceback_of(equation: Any) -> Any:
    """What is equal for equations that were traced at the same stack, and can be hashed."""
    return equation.source_info.traceback


def is_backward(equation: Any) -> bool:
    """Whether an equation was made for the backward pass."""
    stack = equation.source_info.name_stack
    if "transpose(" in str(stack):
        return True
    # Older JAX prints no transformations outside of named scopes.
    return any(
        type(each).__name__ == "Transform" and each.name == "transpose"
        for each in getattr(stack, "stack", ())
    )


def is_recomputation(equation: Any) -> bool:
    """Whether `jax.checkpoint` computes it for the second time."""
    return "rematted_computation" in str(equation.source_info.name_stack)


# Made when treadle is imported: a new kind of context becomes part of the key of every compiled
# call, so that what was called before it is traced once more.
_make_context: Any = getattr(jax, "make_user_context", None)
_context = None if _make_context is None else _make_context(None)
_numbers = itertools.count()


def without_caches() -> Any:
    """A context in which no `jax.jit`, however deep inside, finds what it traced before.

    What is traced in it is not found outside of it either.
    """
    if _context is not None:
        return _context(object())
    # JAX before 0.8: names for what is in the program are part of the key too.
    return set_xla_metadata(treadle_audit=str(next(_numbers)))


def own_tracebacks() -> Any:
    """A context in which what is traced has the stack of this trace, inner programs too.

    Older JAX keeps the whole stack of whoever traced an inner program first; newer ones begin anew.
    """
    return without_caches() if _context is None else contextlib.nullcontext()


def is_jitted(fn: Any) -> bool:
    """Whether a function is under `jax.jit`."""
    return isinstance(fn, type(_an_example()))


@functools.cache
def _an_example() -> Any:
    return jax.jit(lambda: None)


def is_filter_jitted(fn: Any) -> bool:
    """Whether a function is under `eqx.filter_jit`."""
    return isinstance(fn, _jit_module()._JitWrapper)


@functools.cache
def _jit_module() -> Any:
    return importlib.import_module("equinox._jit")


class FilteredCall(NamedTuple):
    """What `eqx.filter_jit` hands to `jax.jit`.

    Attributes:
        jitted: The function under `jax.jit`.
        args: Its arguments, the last one static.
        bound: What the user's function gets: positional arguments, and those by name.
    """

    jitted: Any
    args: tuple[Any, ...]
    bound: tuple[tuple[Any, ...], dict[str, Any]]


def filtered_call(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FilteredCall:
    """Takes a call of an `eqx.filter_jit` apart."""
    info = (fn._signature, fn._dynamic_fun, fn._static_fun, fn.donate_first, fn.donate_rest)
    parts = _jit_module()._preprocess(info, args, kwargs, return_static=True)
    bound = fn._signature.bind(*args, **kwargs)
    return FilteredCall(fn._cached, parts, (bound.args, bound.kwargs))


def filtered_output(out: Any) -> Any:
    """What the function returned, from what `jax.jit` saw: arrays as they stand, the rest too."""
    return _jit_module()._postprocess(out)


def held_arrays(fn: Any) -> Any:
    """The function under an `eqx.filter_jit`, whose arrays are traced like arguments."""
    return fn.__wrapped__


def is_nnx_jitted(fn: Any) -> bool:
    """Whether a function is under `nnx.jit`."""
    module = sys.modules.get("flax.nnx.transforms.compilation")
    wrapper = getattr(module, "JitWrapped", None)
    return wrapper is not None and isinstance(fn, wrapper)


def _nnx_graph() -> Any:
    module: Any = sys.modules["flax.nnx.transforms.compilation"]
    # Its name in Flax 0.11 was another.
    return module.graphlib if hasattr(module, "graphlib") else module.graph


def nnx_arguments(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an `nnx.jit` as the function under its `jax.jit` gets them."""
    with _nnx_graph().update_context(fn):
        return fn._get_pure_args_kwargs(args, kwargs)


def nnx_trace(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Traces a function under `nnx.jit`."""
    with _nnx_graph().update_context(fn):
        positional, named = fn._get_pure_args_kwargs(args, kwargs)
        return fn.jitted_fn.trace(*positional, **named)


def is_array_of_keys(aval: Any) -> bool:
    """Whether the dtype is one of typed keys."""
    return jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)


def key_words(aval: Any) -> tuple[int, ...]:
    """The shape of the words of one typed key."""
    return tuple(aval.dtype._impl.key_shape)


def keys_like(aval: Any) -> Any:
    """Some array of typed keys of a shape and a kind."""
    words = jnp.zeros((*aval.shape, *key_words(aval)), jnp.uint32)
    return jax.random.wrap_key_data(words, impl=aval.dtype._impl.name)


def splits_are_folds() -> bool:
    """Whether `split(key, n)[i]` is `fold_in(key, i)`: with threefry that can be partitioned."""
    config: Any = jax.config
    return bool(config.jax_threefry_partitionable)


def is_committed(array: Any) -> bool:
    """Whether somebody chose the device that an array lies on."""
    return bool(array._committed)


def is_module(value: Any) -> bool:
    """Whether a value is an Equinox module."""
    return isinstance(value, eqx.Module)


@contextlib.contextmanager
def counters_kept() -> Iterator[Callable[[], None]]:
    """What libraries count while tracing is the same for each trace, and afterwards as it was.

    That are the traces that `eqx.debug.assert_max_traces` allows, and the numbers of `checkify`'s
    errors, which are part of the program.

    Yields:
        What is called before each trace.
    """
    traces = importlib.import_module("equinox.debug._max_traces")._traces
    known = dict(traces)
    checkify: Any = importlib.import_module("jax._src.checkify")
    next_code = checkify.next_code

    def start() -> None:
        for tag in list(traces):
            traces[tag] = 0
        checkify.next_code = itertools.count(1).__next__

    try:
        yield start
    finally:
        traces.update(known)
        checkify.next_code = next_code
