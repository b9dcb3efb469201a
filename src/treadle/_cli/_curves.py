"""The figure of a run's loss and accuracy against its steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._extra import require_demo

TRAIN = "#3b6ea5"
TEST = "#d1622b"
_FEW = 8


def plot_curves(rows: Sequence[dict[str, Any]], path: Path, title: str, train_label: str) -> None:
    """Draws the rows of `metrics.jsonl` to a PNG: loss on the left, accuracy on the right.

    Args:
        rows: As `treadle.fit` logs them: `loss` and `accuracy`, and at evaluations
            `eval/loss` and `eval/accuracy`.
        path: Where to.
        title: Above both panels.
        train_label: What `loss` and `accuracy` are of.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = require_demo("matplotlib.figure").Figure(figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.012, ha="left")
    left, right = figure.subplots(1, 2)
    _loss_panel(left, rows, train_label)
    _accuracy_panel(right, rows, train_label)
    last = max((row["step"] for row in rows), default=1)
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.set_xlim(0, last)
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _column(rows: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    there = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = zip(*there, strict=True) if there else ((), ())
    return np.asarray(steps, np.int64), np.asarray(values, np.float64)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """A moving mean over about a tenth of the points, weighted by nearness."""
    # Twice a flat window is a triangle, under which a single spike leaves no plateau.
    return _moving_mean(_moving_mean(values))


def _moving_mean(values: np.ndarray) -> np.ndarray:
    reach = max(len(values) // 40, 1)
    at = np.arange(len(values))
    # Narrower at the start, where the loss falls so steeply that a lopsided mean would be low.
    low = at - np.minimum(reach, at)
    high = np.minimum(at + np.minimum(reach, at), len(values) - 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[high + 1] - sums[low]) / (high + 1 - low)


def _line(axes: Any, steps: np.ndarray, values: np.ndarray, **style: Any) -> None:
    # A line through one point would be invisible.
    marker = "o" if len(steps) < _FEW else None
    axes.plot(steps, values, linewidth=1.8, marker=marker, markersize=3, **style)


def _loss_panel(axes: Any, rows: Sequence[dict[str, Any]], train_label: str) -> None:
    steps, losses = _column(rows, "loss")
    axes.plot(steps, losses, color=TRAIN, alpha=0.25, linewidth=0.9)
    _line(axes, steps, _smoothed(losses), color=TRAIN, label=train_label)
    _line(axes, *_column(rows, "eval/loss"), color=TEST, label="test")
    axes.set_title("Loss", loc="left", fontsize=11)
    axes.set_ylabel("cross-entropy (log scale)")
    axes.set_yscale("log")
    axes.legend(frameon=False)


def _accuracy_panel(axes: Any, rows: Sequence[dict[str, Any]], train_label: str) -> None:
    steps, train = _column(rows, "accuracy")
    test_steps, test = _column(rows, "eval/accuracy")
    # Single batches are left out: they jump by whole examples, all over the panel.
    _line(axes, steps, 100 * _smoothed(train), color=TRAIN, label=train_label)
    _line(axes, test_steps, 100 * test, color=TEST, label="test")
    axes.set_title("Accuracy", loc="left", fontsize=11)
    axes.set_ylabel("%")
    if len(test):
        # The test curve gets the upper part; training begins far below what there is to see.
        span = min(max(2.5 * 100 * (1 - test.min()), 5.0), 100.0)
        axes.set_ylim(100 - span, 100 + 0.04 * span)
        axes.annotate(
            f"{100 * test[-1]:.1f} %",
            (test_steps[-1], 100 * test[-1]),
            xytext=(0, -8),
            textcoords="offset points",
            ha="right",
            va="top",
            color=TEST,
            fontweight="bold",
        )
    axes.legend(frameon=False, loc="lower right")
