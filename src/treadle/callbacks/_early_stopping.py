"""Stopping when an evaluated metric no longer gets better."""

import math
from typing import Any

import numpy as np

from .._checks import whole_number
from .._custom_types import Door
from .._errors import ArgumentValueError
from ._base import Callback, Context


class EarlyStopping(Callback):
    """Ends the training when a metric has not improved for some evaluations.

    Its best value and its patience are kept in checkpoints.

    Of an ensemble, where the metric is an array, each member has its own: one whose patience is
    used up stands still, and the training ends when all do.

    Args:
        metric: A name among the evaluation's figures.
        mode: `"min"` or `"max"`: which way is better.
        patience: How many evaluations in a row may pass without improvement.
        min_delta: By how much a value must be better to count.

    Raises:
        ArgumentValueError: Another mode, a negative `min_delta`, or a patience under 1; during the
            training, a metric that the evaluation does not have.
    """

    def __init__(self, metric: str, *, mode: str, patience: int = 5, min_delta: Door[float] = 0.0):
        if mode not in ("min", "max"):
            raise ArgumentValueError(f"`mode` (={mode!r}) must be 'min' or 'max'.")
        whole_number("patience", patience)
        if min_delta < 0:
            raise ArgumentValueError(f"`min_delta` (={min_delta!r}) must not be negative.")
        self.metric = metric
        self.mode = mode
        self.patience = patience
        self.min_delta = min_delta
        # Lists for an ensemble.
        self.best: Any = None
        self.waited: Any = 0

    @property
    def name(self) -> str:
        """The key of its state in a checkpoint."""
        return f"EarlyStopping({self.metric})"

    def on_start(self, ctx: Context) -> None:
        """A training that was stopped stays stopped when its script is run again."""
        self._stop_if_waited(ctx)

    def on_eval(self, ctx: Context) -> None:
        """Compares, counts, and stops when the patience is used up."""
        assert ctx.eval is not None
        if self.metric not in ctx.eval:
            raise ArgumentValueError(
                f"`metric` (={self.metric!r}) is not among the evaluation's figures: "
                f"{', '.join(map(repr, ctx.eval))}."
            )
        if np.ndim(ctx.eval[self.metric]) == 1:
            self._on_members(ctx, [float(value) for value in ctx.eval[self.metric]])
            return
        value = float(ctx.eval[self.metric])
        if self._is_better(value, self.best):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        self._stop_if_waited(ctx)

    def _on_members(self, ctx: Context, values: list[float]) -> None:
        """The same for each member; the state says which of them stand still already."""
        if self.best is None:
            self.best, self.waited = [None] * len(values), [0] * len(values)
        better = [self._is_better(*pair) for pair in zip(values, self.best, strict=True)]
        self.best = [
            value if yes else old for yes, value, old in zip(better, values, self.best, strict=True)
        ]
        self.waited = [0 if yes else old + 1 for yes, old in zip(better, self.waited, strict=True)]
        done = [waited >= self.patience for waited in self.waited]
        if any(done):
            ctx.stop_members(done)
        self._stop_if_waited(ctx)

    def _stop_if_waited(self, ctx: Context) -> None:
        if isinstance(self.waited, list):
            active = ctx.state.active
            if active is not None and not np.asarray(active).any():
                ctx.stop(
                    f"early stopping: none of the {len(self.waited)} members goes on; "
                    f"{self.metric} has not improved for {self.patience} evaluations in each"
                )
            return
        if self.waited >= self.patience:
            ctx.stop(
                f"early stopping: {self.metric} has not improved on {self.best} for "
                f"{self.waited} evaluations"
            )

    def _is_better(self, value: float, best: float | None) -> bool:
        if math.isnan(value):
            return False
        if best is None:
            return True
        gain = best - value if self.mode == "min" else value - best
        return gain > self.min_delta

    def get_state(self) -> Any:
        """The best value so far, and how many evaluations ago it was."""
        return {"best": self.best, "waited": self.waited}

    def set_state(self, state: Any) -> None:
        """Goes on from there."""
        self.best, self.waited = state["best"], state["waited"]
