"""Checks at the door that many doors share."""

import operator
import os
import pathlib
from typing import Any

import numpy as np

from ._errors import ArgumentTypeError, ArgumentValueError


def whole_number(name: str, value: Any, *, minimum: int = 1, otherwise: str = "") -> int:
    """`value` as an `int`.

    Args:
        name: The argument.
        value: What was given for it.
        minimum: The least that it may be.
        otherwise: What else may stand there, for the message: `", or None for no limit"`.

    Raises:
        ArgumentTypeError: If it is no whole number (`True` is none either).
        ArgumentValueError: If it is less.
    """
    wanted = f"a whole number of at least {minimum}{otherwise}"
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise ArgumentTypeError(
            f"`{name}` (={value!r}) must be {wanted}, not of type {type(value).__name__}."
        )
    if number < minimum:
        raise ArgumentValueError(f"`{name}` (={number}) must be {wanted}.")
    return number


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuses a word that is none of the choices.

    Raises:
        ArgumentValueError: With the choices.
    """
    if value not in choices:
        raise ArgumentValueError(
            f"`{name}` (={value!r}) must be one of {', '.join(map(repr, choices))}."
        )


def as_path(path: Any) -> pathlib.Path:
    """The path of a file.

    Raises:
        ArgumentTypeError: It is none.
    """
    if isinstance(path, (str, os.PathLike)):
        return pathlib.Path(path)
    raise ArgumentTypeError(
        f"`path` (={path!r}) must be the path of a file, not of type {type(path).__name__}."
    )


def foreign_to_jax(dtype: np.dtype) -> str | None:
    """What to do about an array of a dtype that JAX does not have; `None` for one that it has."""
    if dtype.kind in "OSUMm":
        return "turn it into numbers, or leave it out"
    if dtype.names is not None:
        return "its fields are arrays of their own, `{name: x[name] for name in x.dtype.names}`"
    # JAX's own, bfloat16 and its kin, are of the kind "V", as bytes without a meaning are.
    if dtype.kind == "V" and dtype.isbuiltin != 2:
        return "NumPy's files lose what bfloat16 is called, `x.view(jnp.bfloat16)`"
    if not dtype.isnative:
        return f"`x.astype({dtype.newbyteorder('=').str!r})` has this machine's order of bytes"
    if dtype.itemsize > {"f": 8, "c": 16}.get(dtype.kind, dtype.itemsize):
        return f"`x.astype('{dtype.kind}{dtype.itemsize // 2}')` has the digits that JAX has"
    return None
