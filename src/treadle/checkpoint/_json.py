"""What goes into a manifest as JSON, checked before it does."""

import json
from collections.abc import Mapping
from typing import Any

from .._errors import ArgumentTypeError


def checked_metadata(metadata: Any) -> dict[str, Any]:
    """`metadata` as JSON will give it back; None is empty.

    Raises:
        ArgumentTypeError: If it is not a dictionary, or part of it is not JSON.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise ArgumentTypeError(
            f"`metadata` (={metadata!r}) must be a dictionary, not of type "
            f"{type(metadata).__name__}."
        )
    try:
        _check(metadata, "")
        return json.loads(json.dumps(metadata))
    except (RecursionError, ValueError) as error:  # Python writes no longer integers in decimal.
        raise ArgumentTypeError(
            f"`metadata` cannot be written as JSON: {error}. Write long integers as `hex(n)`, and "
            "lists and dictionaries that are not within themselves, nor hundreds of levels deep."
        ) from error


def _check(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ArgumentTypeError(
                    f"`metadata{where}` has the key {key!r} of type {type(key).__name__}, which "
                    f"JSON would make a string: write `str(key)`."
                )
            _check(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            _check(item, f"{where}[{at}]")
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise ArgumentTypeError(
            f"`metadata{where}` (={value!r}) is of type {type(value).__name__}, which is not JSON: "
            "metadata is strings, numbers, booleans, None, lists and dictionaries of them. Arrays "
            "belong in the tree; of a scalar take `float(x)`."
        )


def checked_metrics(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """`metrics` as plain numbers; None is empty.

    Raises:
        ArgumentTypeError: If one of them is not a number.
    """
    out: dict[str, float] = {}
    for name, value in (metrics or {}).items():
        try:
            out[str(name)] = float(value)
        except OverflowError as error:
            raise ArgumentTypeError(
                f"`metrics[{name!r}]` is an integer too large for a float, and checkpoints are "
                "compared by those: leave it out."
            ) from error
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(
                f"`metrics[{name!r}]` (={value!r}) of type {type(value).__name__} is not a number, "
                "and checkpoints are compared by them: leave it out, or put it in `metadata`."
            ) from error
    return out
