"""What values an array may have."""

import math
from typing import Any, NamedTuple

import numpy as np

from ..._custom_types import Door
from ..._errors import ArgumentTypeError, ArgumentValueError


class Limits(NamedTuple):
    """Which unusual values are allowed, and between which numbers all others lie."""

    nan: bool = False
    infinity: bool = False
    subnormal: bool = False
    negative_zero: bool = False
    low: Any = None
    high: Any = None

    @property
    def is_special(self) -> bool:
        """Whether any unusual value is allowed."""
        return self.nan or self.infinity or self.subnormal or self.negative_zero


def require_bound(name: str, bound: Any, otherwise: str = "") -> None:
    """Refuses a bound that no number can be compared with.

    Args:
        name: The argument.
        bound: What was given for it.
        otherwise: What else may stand there, for the message: `", or None for no bound"`.

    Raises:
        ArgumentTypeError: It is no number.
        ArgumentValueError: It is not finite, or greater than every float.
    """
    if isinstance(bound, bool) or not isinstance(bound, int | float | np.integer | np.floating):
        raise ArgumentTypeError(f"`{name}` (={bound!r}) must be a number{otherwise}.")
    try:
        finite = math.isfinite(bound)
    except OverflowError:  # A whole number of hundreds of digits.
        finite = False
    if not finite:
        raise ArgumentValueError(
            f"`{name}` (={bound}) must be finite, and not beyond all floats{otherwise}."
        )


def limits_of(
    special: bool,
    allow_nan: bool | None = None,
    allow_infinity: bool | None = None,
    allow_subnormal: bool | None = None,
    allow_negative_zero: bool | None = None,
    min_value: Door[float | None] = None,
    max_value: Door[float | None] = None,
) -> Limits:
    """Limits from the arguments of `arrays`: what is `None` is as `special`.

    Raises:
        ArgumentTypeError: A bound is no number.
        ArgumentValueError: A bound is not finite, or they are in the wrong order.
    """
    for name, bound in (("min_value", min_value), ("max_value", max_value)):
        if bound is not None:
            require_bound(name, bound, ", or None for no bound")
    if min_value is not None and max_value is not None and min_value > max_value:
        raise ArgumentValueError(f"`min_value` (={min_value}) is above `max_value` (={max_value}).")
    flags = (allow_nan, allow_infinity, allow_subnormal, allow_negative_zero)
    told = [special if flag is None else flag for flag in flags]
    return Limits(*told, low=min_value, high=max_value)


PLAIN = Limits()
"""Finite numbers that are not subnormal, and no -0.0."""
