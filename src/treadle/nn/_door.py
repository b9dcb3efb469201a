"""Checks at the door of a model: what came in wrong, told in the words of whoever called it."""

import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import ArgumentTypeError, ArgumentValueError

_P = ParamSpec("_P")
_R = TypeVar("_R")


def at_the_door(check: Callable[..., None]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Calls `check` with a method's arguments before the method itself.

    A decorator, not a first line: a runtime type checker wraps the method from the inside, and
    would otherwise put its own message in front of ours. While tracing this costs nothing in the
    compiled program.
    """

    def decorate(method: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(method)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            check(*args, **kwargs)
            return method(*args, **kwargs)

        return checked

    return decorate


def check_features(model: str, x: Any, in_size: int) -> None:
    """Raises unless `x` is one example: a floating-point vector of length `in_size`."""
    if not isinstance(x, jax.Array | np.ndarray):
        raise ArgumentTypeError(
            f"`x` is of type {type(x).__name__}, but this {model} takes one example, a "
            f"floating-point array of shape (in_size,) = ({in_size},): `jnp.asarray(x)`."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ArgumentTypeError(_wrong_dtype(model, x))
    if x.shape != (in_size,):
        raise ArgumentValueError(_wrong_shape(model, x.shape, in_size))


def _wrong_dtype(model: str, x: Any) -> str:
    told = f"`x` has dtype {x.dtype}, but this {model} computes in floating point"
    if x.dtype == np.uint8:
        return f"{told}. Images of bytes are scaled first: `x.astype(jnp.float32) / 255`."
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return (
            f"{told}. Give it real numbers: `jnp.concatenate([x.real, x.imag])`, or `jnp.abs(x)`."
        )
    return f"{told}: `x.astype(jnp.float32)`."


def _wrong_shape(model: str, shape: tuple[int, ...], in_size: int) -> str:
    told = (
        f"`x` has shape {shape}, but this {model} takes one example of shape "
        f"(in_size,) = ({in_size},)."
    )
    batched = "`jax.vmap(model)(x)`, or leave it to `treadle.TrainStep`, which vmaps the loss."
    if len(shape) == 2 and shape[1] == in_size:
        return f"{told} It looks like a batch of {_examples(shape[0])}: {batched}"
    if math.prod(shape) == in_size:
        return f"{told} Flatten it: `x.reshape(-1)`."
    if len(shape) > 2 and math.prod(shape[1:]) == in_size:
        return (
            f"{told} It looks like a batch of {_examples(shape[0])} of shape {shape[1:]}: flatten "
            f"each one, `x.reshape(len(x), -1)`, then {batched}"
        )
    if len(shape) == 1:
        return f"{told} Give it {in_size} features, or make the model with `in_size={shape[0]}`."
    return f"{told} One example of this shape has {math.prod(shape)} features in all."


def _examples(count: int) -> str:
    return f"{count} example" if count == 1 else f"{count} examples"
