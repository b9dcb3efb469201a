"""Rows of arrays as rows of numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._errors import ArgumentTypeError

# Booleans, integers, floats; "V" are JAX's own, such as bfloat16.
_KINDS = "biufV"


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without arrays: their elements become `name/0`, `name/1`, in the order of memory."""
    flattened: dict[str, Any] = {}
    for name, value in row.items():
        if np.ndim(value) == 0:
            flattened[name] = value
        else:
            elements = np.asarray(value).reshape(-1).tolist()
            flattened |= {f"{name}/{index}": element for index, element in enumerate(elements)}
    return flattened


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A row of Python's floats, without arrays.

    Raises:
        ArgumentTypeError: Something in it is no real number, nor an array of them.
    """
    for name, value in row.items():
        if np.asarray(value).dtype.kind not in _KINDS:
            raise ArgumentTypeError(
                f"`row` has {value!r} for {name!r}: what is logged are real numbers, or arrays of "
                f"them."
            )
    return {name: float(value) for name, value in flat(row).items()}
