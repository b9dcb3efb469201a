"""What is known of a value: whether it is zero, and what it depends on."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Known(NamedTuple):
    """What is known of a value.

    Attributes:
        number: What every element of it is; `None` if that depends.
        depends: The inputs it depends on, as bits.
        core: The same, without those that only scale it as a whole, or decide whether it counts: a
            clip factor, the norm of all gradients, whether they are finite.
        carries: The inputs that it is an update of, element by element.
        same: The input that it is, unchanged.
        uniform: Whether it is one number, repeated.
        cut: Whether a gradient that is structurally zero went into it.
    """

    number: Any = None
    depends: int = 0
    core: int = 0
    carries: int = 0
    same: int | None = None
    uniform: bool = False
    cut: bool = False

    @property
    def is_zero(self) -> bool:
        """Whether every element of it is zero, always."""
        return self.number is not None and self.number == 0


UNKNOWN = Known()


def is_number(number: Any) -> bool:
    """Whether one can calculate with it."""
    return isinstance(number, (bool, int, float)) and math.isfinite(number)


def all_of(masks: Any) -> int:
    """All inputs that stand in one of some masks."""
    total = 0
    for mask in masks:
        total |= mask
    return total


def mixed(inputs: Sequence[Known]) -> Known:
    """Something made of several values."""
    depends = all_of(each.depends for each in inputs)
    return Known(None, depends, depends, cut=any(each.cut for each in inputs))


def joined(cases: Sequence[Known], which: Known | None, backward: bool) -> Known:
    """One of several cases.

    Args:
        cases: What it may be.
        which: What decides; `None` if it stays the same.
        backward: Whether it is a gradient.
    """
    number = cases[0].number if len({each.number for each in cases}) == 1 else None
    same = cases[0].same if len({each.same for each in cases}) == 1 else None
    cut = any(each.cut for each in cases)
    uniform = all(each.uniform for each in cases)
    depends = all_of(each.depends for each in cases)
    if number is not None:
        return Known(number, depends, depends, uniform=uniform, cut=cut)
    core = all_of(each.core for each in cases)
    carries = all_of(each.carries for each in cases)
    if which is not None and same is None:
        depends |= which.depends
        # Whether an update counts is no update. Between numbers, it is the value.
        if backward or not carries:
            core |= which.depends
    return Known(None, depends, core, carries, same, uniform, cut)
