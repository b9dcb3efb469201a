"""`History`: the figures of a training, by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._compiled import Compilation
from .._units import speed
from ..track import Tracker


class History(Tracker):
    """What `fit` gives back besides the state.

    Attributes:
        steps: The steps that were logged.
        metrics: Each metric's values at those steps.
        eval_steps: The steps after which there was an evaluation.
        eval: Each figure's values there.
        stopped: Why the training ended before `num_steps`; `None` where it did not.
        seconds: Wall time of this call by what it went to: `data`, `step`, `eval`, `save`.
        compilations: What the step compiled during this call, and why (`treadle.Compilation`).
        flops: Model flops of one step: the operations in its matrix products and convolutions.
        flops_per_second: Those that this call did each second, its first dispatch (which compiles)
            left out, evaluations and checkpoints included; `None` where there was nothing else.
        peak_fraction: How much of the devices' peak that is; `None` where the peak is not known.

    A figure that was not there at some step is `None` in its list.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.metrics: dict[str, list[Any]] = {}
        self.eval_steps: list[int] = []
        self.eval: dict[str, list[Any]] = {}
        self.stopped: str | None = None
        self.seconds: Mapping[str, float] = {}
        self.compilations: tuple[Compilation, ...] = ()
        self.flops: float | None = None
        self.flops_per_second: float | None = None
        self.peak_fraction: float | None = None

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Adds a row; one whose names begin with `eval/` to the evaluations."""
        # Arrays come as lists from a file.
        row = {name: np.asarray(v) if isinstance(v, list) else v for name, v in row.items()}
        prefix = "eval/"
        if all(name.startswith(prefix) for name in row):
            figures = {name.removeprefix(prefix): value for name, value in row.items()}
            _append(self.eval_steps, self.eval, step, figures)
        else:
            _append(self.steps, self.metrics, step, row)

    def resume(self, step: int) -> None:
        """Keeps what there is: a history begins empty, and is filled from the run's file."""

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def __repr__(self) -> str:
        losses = self.metrics.get("loss")
        # Of an ensemble there is one for each member.
        last = f", last loss {np.mean(losses[-1]):.4g}" if losses else ""
        evals = f", {len(self.eval_steps)} evaluations" if self.eval_steps else ""
        why = f", stopped: {self.stopped}" if self.stopped else ""
        # Without products to count there is no speed to tell.
        rate = self.flops_per_second
        fast = f", {speed(rate, self.peak_fraction)}" if rate else ""
        return f"History({len(self.steps)} rows{last}{evals}{fast}{why})"


def _append(
    steps: list[int], columns: dict[str, list[Any]], step: int, row: Mapping[str, Any]
) -> None:
    for name in row:
        columns.setdefault(name, [None] * len(steps))
    steps.append(step)
    for name, column in columns.items():
        column.append(row.get(name))
