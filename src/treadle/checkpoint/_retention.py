"""Which checkpoints to keep."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from .._checks import whole_number
from .._errors import ArgumentTypeError, ArgumentValueError


@dataclasses.dataclass(frozen=True)
class Retention:
    """What a `Checkpointer` keeps; everything, if `last` is None."""

    last: int | None
    best: tuple[str, str, int] | None
    every: int | None

    def superseded(
        self, metrics: Mapping[int, Mapping[str, float]], newest: int
    ) -> Collection[int]:
        """The steps to remove.

        Args:
            metrics: All steps that there are, with their metrics.
            newest: The step written last; never removed, even where it is not the greatest.
        """
        if self.last is None:
            return []
        keep = {newest, *sorted(metrics)[-self.last :]}
        if self.every is not None:
            keep |= {step for step in metrics if step % self.every == 0}
        if self.best is not None:
            keep |= _best(metrics, *self.best)
        return sorted(metrics.keys() - keep)


def _best(metrics: Mapping[int, Mapping[str, float]], name: str, mode: str, count: int) -> set[int]:
    sign = 1.0 if mode == "min" else -1.0
    figures = {step: of_step[name] for step, of_step in metrics.items() if name in of_step}
    # A NaN is no figure to be proud of. Of equals, the earlier one: it took less training.
    ranked = sorted(
        (sign * figure, step) for step, figure in figures.items() if not math.isnan(figure)
    )
    return {step for _, step in ranked[:count]}


def retention(keep_last: Any, keep_best: Any, keep_every: Any) -> Retention:
    """The retention that the arguments of `Checkpointer` ask for.

    Raises:
        ArgumentTypeError: If one of them is of the wrong type.
        ArgumentValueError: If a count is not positive, or a mode is neither "min" nor "max".
    """
    if keep_last is not None:
        keep_last = whole_number("keep_last", keep_last, otherwise=", or None to keep all")
    if keep_every is not None:
        keep_every = whole_number("keep_every", keep_every, otherwise=", or None")
    best = None if keep_best is None else _parse_best(keep_best)
    return Retention(keep_last, best, keep_every)


def _parse_best(keep_best: Any) -> tuple[str, str, int]:
    if not isinstance(keep_best, (tuple, list)) or len(keep_best) != 3:
        raise ArgumentTypeError(
            f"`keep_best` (={keep_best!r}) must be the name of a metric, 'min' or 'max', and how "
            "many to keep, such as ('eval/accuracy', 'max', 2)."
        )
    name, mode, count = keep_best
    if not isinstance(name, str):
        raise ArgumentTypeError(
            f"`keep_best[0]` (={name!r}) must be the name of a metric, not of type "
            f"{type(name).__name__}."
        )
    if mode not in ("min", "max"):
        raise ArgumentValueError(f"`keep_best[1]` (={mode!r}) must be 'min' or 'max'.")
    return name, mode, whole_number("keep_best[2]", count)
