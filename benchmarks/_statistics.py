"""Medians, ranges, and ratios of what was measured side by side."""

import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """A median, and the lowest and highest that went into it."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """The spread of one or more values."""
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values))


def ratio(values: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> Spread:
    """The spread over rounds of a ratio.

    Both are given as rounds of turns. A turn is divided by the same turn of the reference, which
    ran within seconds of it, so that a machine that slows down for a while slows both; a round
    counts with the median of its turns.
    """
    rounds = []
    for mine, other in zip(values, reference, strict=True):
        rounds.append(statistics.median(a / b for a, b in zip(mine, other, strict=True)))
    return spread(rounds)
