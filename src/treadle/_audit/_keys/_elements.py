"""What primitives that know nothing of keys make of values, element by element."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .._private import is_array_of_keys
from ._values import (
    Value,
    fresh,
    integers_of,
    is_followed,
    mixed,
    numbers,
    of_integers,
    salt,
    unknown,
)

SAME = frozenset(
    {
        "copy",
        "copy_p",
        "device_put",
        "sharding_constraint",
        "optimization_barrier",
        "reduce_precision",
        "pbroadcast",
        "pvary",
        "pcast",
        "reshard",
        "mesh_cast",
        "layout_constraint",
        "stop_gradient",
        "name",
        "convert_element_type",
    }
)
"""Primitives that hand on what they read."""


def _numpy_binary(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda params, left, right: function(left, right)


_KNOWN_INTEGERS: dict[str, Callable[..., Any]] = {
    "add": _numpy_binary(np.add),
    "sub": _numpy_binary(np.subtract),
    "mul": _numpy_binary(np.multiply),
    "max": _numpy_binary(np.maximum),
    "min": _numpy_binary(np.minimum),
    "lt": _numpy_binary(np.less),
    "le": _numpy_binary(np.less_equal),
    "gt": _numpy_binary(np.greater),
    "ge": _numpy_binary(np.greater_equal),
    "eq": _numpy_binary(np.equal),
    "ne": _numpy_binary(np.not_equal),
    "and": _numpy_binary(np.bitwise_and),
    "or": _numpy_binary(np.bitwise_or),
}


def _moved(equation: Any, ids: Any) -> Any:
    """What a primitive that only moves elements makes of them; `None` for any other."""
    params = equation.params
    match equation.primitive.name:
        case "slice":
            strides = params["strides"] or (1,) * ids.ndim
            window = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
            return ids[tuple(slice(*each) for each in window)]
        case "squeeze" | "reshape" | "expand_dims":
            return ids.reshape(equation.outvars[0].aval.shape)
        case "transpose":
            return ids.transpose(params["permutation"])
        case "rev":
            return np.flip(ids, params["dimensions"])
        case "broadcast_in_dim":
            places = [int(at) for at in params["broadcast_dimensions"]]
            shape = [1] * len(params["shape"])
            for at, size in zip(places, ids.shape, strict=True):
                shape[at] = size
            return np.broadcast_to(ids.reshape(shape), params["shape"])
    return None


def _computed(equation: Any, inputs: list[Value]) -> Value | None:
    """Whole numbers, where those they are computed from are known."""
    name, aval = equation.primitive.name, equation.outvars[0].aval
    if name == "iota":
        shape, dimension = equation.params["shape"], equation.params["dimension"]
        places = np.arange(shape[dimension]).reshape(
            [-1 if at == dimension else 1 for at in range(len(shape))]
        )
        return of_integers(np.broadcast_to(places, shape))
    if name == "concatenate" and all(value.ids is not None for value in inputs):
        joined = np.concatenate([v.ids for v in inputs], equation.params["dimension"])
        return Value(joined)
    if name == "dynamic_slice" and inputs[0].ids is not None:
        return _window(equation, inputs)
    if name == "gather" and inputs[0].ids is not None:
        return _gathered(equation, inputs)
    if name == "select_n":
        return selected(inputs, aval)
    if name in _KNOWN_INTEGERS and len(inputs) == 2 and not is_array_of_keys(aval):
        left, right = (integers_of(value) for value in inputs)
        if left is not None and right is not None:
            found = _KNOWN_INTEGERS[name](equation.params, left, right)
            return of_integers(np.broadcast_to(found, aval.shape))
    return None


def _window(equation: Any, inputs: list[Value]) -> Value | None:
    starts = [integers_of(value) for value in inputs[1:]]
    if any(start is None for start in starts):
        return None
    ids, sizes = inputs[0].ids, equation.params["slice_sizes"]
    where = [
        int(np.clip(start, 0, size - width))
        for start, size, width in zip(starts, ids.shape, sizes, strict=False)
    ]
    window = tuple(slice(at, at + width) for at, width in zip(where, sizes, strict=True))
    return Value(ids[window])


def _gathered(equation: Any, inputs: list[Value]) -> Value | None:
    """Elements at indices that are known."""
    indices = integers_of(inputs[1])
    if indices is None or is_array_of_keys(equation.invars[0].aval) is None:
        return None
    ids = inputs[0].ids
    places = np.arange(ids.size, dtype=np.int32).reshape(ids.shape)
    params = {**equation.params, "fill_value": None, "mode": jax.lax.GatherScatterMode.CLIP}
    with jax.ensure_compile_time_eval():
        taken = equation.primitive.bind(places, indices.astype(np.int32), **params)
    return Value(ids.ravel()[np.asarray(taken)])


def selected(inputs: list[Value], aval: Any) -> Value | None:
    """One of several values, element by element; the first input says which."""
    which, *cases = inputs
    if any(case.ids is None for case in cases):
        return None
    known = integers_of(which)
    if known is not None:
        stacked = np.stack([case.ids for case in cases])
        chosen = np.broadcast_to(known, aval.shape)[None].astype(np.int64)
        return Value(np.take_along_axis(stacked, chosen, 0)[0])
    first = cases[0].ids
    same = np.logical_and.reduce([case.ids == first for case in cases])
    other = mixed(salt("select_n"), which.number, *(case.ids for case in cases))
    return Value(np.where(same, first, other))


def plain(equation: Any, inputs: list[Value]) -> list[Value]:
    """A primitive that knows nothing of keys, and moves or computes."""
    source = known_from(inputs)
    if len(equation.outvars) == 1 and is_followed(equation.outvars[0].aval):
        aval = equation.outvars[0].aval
        if inputs and inputs[0].ids is not None:
            moved = _moved(equation, inputs[0].ids)
            if moved is not None:
                return [Value(np.asarray(moved)).like(source)]
        known = _computed(equation, inputs)
        if known is not None:
            return [known.like(source)]
        text = salt(f"{equation.primitive.name} {stable(equation.params)}")
        if all(v.ids is not None and v.ids.shape in (aval.shape, ()) for v in inputs):
            ids = mixed(text, *(np.broadcast_to(v.ids, aval.shape) for v in inputs))
            return [Value(np.asarray(ids).reshape(aval.shape)).like(source)]
        return [unknown(aval, mixed(text, *numbers(inputs))).like(source)]
    constant = all(value.constant for value in inputs)
    return [unknown(out.aval, fresh(constant)).like(source) for out in equation.outvars]


def stable(params: dict[str, Any]) -> str:
    """Parameters as text."""
    return " ".join(f"{name}={value}" for name, value in sorted(params.items()))


def known_from(values: Sequence[Value]) -> Value | None:
    """The first value of which it is known where it came from."""
    return next((v for v in values if v.origin is not None or v.maker is not None), None)


def has_shape(value: Value, aval: Any) -> bool:
    """Whether a value is followed in the shape of a type, or as a whole."""
    return value.ids is None or value.ids.shape == aval.shape


def retyped(value: Value, aval: Any) -> Value:
    """The same value under another type."""
    if is_followed(aval) != (value.ids is not None) or not has_shape(value, aval):
        return unknown(aval, value.number).like(value)
    return value


def row(value: Value, aval: Any, at: int) -> Value:
    """One element along the first axis."""
    if value.ids is not None and is_followed(aval):
        return Value(value.ids[at]).like(value)
    return unknown(aval, mixed(value.number, of_integers(at).ids)).like(value)


def fitted(value: Value, aval: Any) -> Value:
    """What one device, or one shard, sees of a value: its first part."""
    if not is_followed(aval):
        return Value(None, value.number)
    if value.ids is None:
        return unknown(aval, value.number).like(value)
    if value.ids.shape == aval.shape:
        return value
    ids = value.ids
    while ids.ndim > len(aval.shape):
        ids = ids[0]
    return Value(ids[tuple(slice(0, size) for size in aval.shape)]).like(value)
