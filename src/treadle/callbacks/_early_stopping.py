"""Stopping when an evaluated metric no longer gets better."""

import math
from typing import Any

from .._checks import whole_number
from .._custom_types import Door
from .._errors import ArgumentValueError
from ._base import Callback, Context


class EarlyStopping(Callback):
    """Ends the training when a metric has not improved for some evaluations.

    Its best value and its patience are kept in checkpoints.

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
        self.best: float | None = None
        self.waited = 0

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
        value = float(ctx.eval[self.metric])
        if self._is_better(value):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        self._stop_if_waited(ctx)

    def _stop_if_waited(self, ctx: Context) -> None:
        if self.waited >= self.patience:
            ctx.stop(
                f"early stopping: {self.metric} has not improved on {self.best} for "
                f"{self.waited} evaluations"
            )

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        gain = self.best - value if self.mode == "min" else value - self.best
        return gain > self.min_delta

    def get_state(self) -> Any:
        """The best value so far, and how many evaluations ago it was."""
        return {"best": self.best, "waited": self.waited}

    def set_state(self, state: Any) -> None:
        """Goes on from there."""
        self.best, self.waited = state["best"], state["waited"]
