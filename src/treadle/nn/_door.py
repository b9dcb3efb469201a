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


def check_image(model: str, x: Any, channels: int, batched: str) -> None:
    """Raises unless `x` is one floating-point image of `channels` channels, channels first.

    Args:
        model: What the caller is called.
        x: What was given.
        channels: How many it must have.
        batched: How a batch is put through the model, for the message.
    """
    wanted = f"(channels, height, width) with {channels} channel{'s' * (channels != 1)}"
    if not isinstance(x, jax.Array | np.ndarray):
        raise ArgumentTypeError(
            f"`x` is of type {type(x).__name__}, but this {model} takes one image, a "
            f"floating-point array of shape {wanted}: `jnp.asarray(x)`."
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ArgumentTypeError(_wrong_dtype(model, x))
    if x.ndim != 3 or x.shape[0] != channels or 0 in x.shape:
        raise ArgumentValueError(_wrong_image(model, x.shape, channels, wanted, batched))


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raises unless `value` is one of `allowed`, all of one type.

    Raises:
        ArgumentTypeError: It is of another type.
        ArgumentValueError: It is another value.
    """
    told = f"`{name}` (={value!r}) must be {', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}"
    if isinstance(value, bool) or not isinstance(value, type(allowed[0])):
        raise ArgumentTypeError(f"{told}, not of type {type(value).__name__}.")
    if value not in allowed:
        raise ArgumentValueError(f"{told}.")


def _wrong_image(
    model: str, shape: tuple[int, ...], channels: int, wanted: str, batched: str
) -> str:
    told = f"`x` has shape {shape}, but this {model} takes one image of shape {wanted}."
    if 0 in shape:
        return f"{told} There is nothing in it."
    if len(shape) == 4:
        last = "" if shape[1] == channels else " (after `jnp.moveaxis(x, -1, 1)`: channels first)"
        if last and shape[-1] != channels:
            return (
                f"{told} Four axes are a batch, but neither the second nor the last has {channels}."
            )
        return (
            f"{told} It looks like a batch of {_examples(shape[0])}{last}: {batched}, or leave it "
            "to `treadle.TrainStep`, which vmaps the loss."
        )
    if len(shape) == 3 and shape[2] == channels:
        return f"{told} Its channels come last: `jnp.moveaxis(x, -1, 0)`."
    if len(shape) == 3:
        return f"{told} Make the model with `in_channels={shape[0]}`, if it is such an image."
    if len(shape) == 2 and channels == 1:
        return f"{told} An image in grey gets an axis for its one channel: `x[None]`."
    if len(shape) == 1:
        return (
            f"{told} A flat image is put into shape first: `x.reshape({channels}, height, width)`."
        )
    return told


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
