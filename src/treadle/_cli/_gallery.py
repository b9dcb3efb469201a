"""The figure of test images with what the model says of them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ._extra import require_demo

_COLUMNS = 10
# In inches.
_MARGIN = 0.2
_HEADER = 0.6
_SECTION = 0.45
_CELL = 1.06
_ROW = 1.3
_WRONG = "#c0271d"
_RIGHT = "#1f7a3d"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of images.

    Attributes:
        images: To be looked at, height by width, in colour or not.
        truth: Their classes.
        guess: The likeliest class of each.
        certainty: Its probability.
    """

    images: Float[np.ndarray, "n height width *colour"]
    truth: Int[np.ndarray, " n"]
    guess: Int[np.ndarray, " n"]
    certainty: Float[np.ndarray, " n"]


def plot_predictions(told: Predictions, path: Path, title: str) -> None:
    """Draws images to a PNG: those guessed wrong, then the least certain, then a cross-section.

    Args:
        told: The images and what the model says of them.
        path: Where to.
        title: Above them all.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    sections = _sections(told)
    rows = [-(-len(chosen) // _COLUMNS) for _, chosen in sections]
    width = 2 * _MARGIN + _COLUMNS * _CELL
    height = _HEADER + len(rows) * _SECTION + sum(rows) * _ROW + _MARGIN
    figure = require_demo("matplotlib.figure").Figure(figsize=(width, height))
    # Placed by hand, in inches from the top: layouts would spread few rows over the space of many.
    figure.text(
        _MARGIN / width, 1 - 0.35 / height, title, fontsize=13, fontweight="bold", va="center"
    )
    top = _HEADER
    for (heading, chosen), count in zip(sections, rows, strict=True):
        figure.text(_MARGIN / width, 1 - (top + 0.2) / height, heading, fontsize=11, va="center")
        top += _SECTION
        for at, index in enumerate(chosen.tolist()):
            row, column = divmod(at, _COLUMNS)
            left = _MARGIN + column * _CELL
            bottom = height - (top + (row + 1) * _ROW - 0.1)
            size = _CELL - 0.12
            panel = figure.add_axes((left / width, bottom / height, size / width, size / height))
            _panel(panel, told, index)
        top += count * _ROW
    figure.savefig(path, dpi=130)


def _sections(told: Predictions) -> list[tuple[str, Int[np.ndarray, " k"]]]:
    """Titles and indices: wrong by falling certainty, right by rising certainty, evenly spread."""
    by_certainty = np.argsort(told.certainty, kind="stable")
    right = told.guess == told.truth
    wrong = by_certainty[~right[by_certainty]][::-1]
    unsure = by_certainty[right[by_certainty]]
    rest = np.sort(unsure[2 * _COLUMNS :])
    spread = rest[np.linspace(0, len(rest) - 1, 2 * _COLUMNS).astype(int)] if len(rest) else rest
    shown = wrong[: 3 * _COLUMNS]
    cut = f", the {len(shown)} most certain of them" if len(shown) < len(wrong) else ""
    sections = [
        (f"Wrong: {len(wrong):,} of {len(right):,}{cut}", shown),
        ("Right, but least certain", unsure[: 2 * _COLUMNS]),
        ("Right: a cross-section of the others", np.unique(spread)),
    ]
    return [(title, chosen) for title, chosen in sections if len(chosen)]


def _panel(axes: Any, told: Predictions, index: int) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    guess, truth = told.guess[index], told.truth[index]
    colour = _RIGHT if guess == truth else _WRONG
    axes.imshow(told.images[index], cmap="gray_r", vmin=0, vmax=1)
    axes.spines[:].set_color(colour)
    axes.spines[:].set_linewidth(0.8 if guess == truth else 2.2)
    said = f"{guess}" if guess == truth else f"{guess}, not {truth}"
    axes.set_title(
        f"{said}  {_percent(float(told.certainty[index]))}", fontsize=9, color=colour, pad=4
    )


def _percent(probability: float) -> str:
    # "100 %" would claim more than a rounded number knows.
    return ">99 %" if probability > 0.99 else f"{100 * probability:.0f} %"
