"""What a sweep found, as a table."""

import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class SweepRow:
    """One setting of a sweep.

    Attributes:
        setting: The grid's values, by name.
        figures: Each figure's mean over the seeds that did not diverge; NaN where all did.
        spread: Each figure's standard deviation over those seeds (with `n - 1`); NaN for one seed.
        diverged: How many seeds met a NaN or an infinity.
        values: Each figure of each seed, in order; NaN where it diverged.
    """

    setting: Mapping[str, Any]
    figures: Mapping[str, float]
    spread: Mapping[str, float]
    diverged: int
    values: Mapping[str, tuple[float, ...]]


def row_of(
    setting: Mapping[str, Any], values: Mapping[str, Sequence[float] | np.ndarray], lost: Any
) -> SweepRow:
    """A row from what each seed of a setting came to.

    Args:
        setting: The grid's values.
        values: Of each figure, a number for each seed.
        lost: For each seed, whether it diverged.
    """
    kept = {
        name: tuple(math.nan if gone else float(v) for v, gone in zip(column, lost, strict=True))
        for name, column in values.items()
    }
    found = {name: [v for v in column if not math.isnan(v)] for name, column in kept.items()}
    return SweepRow(
        setting=dict(setting),
        figures={n: float(np.mean(v)) if v else math.nan for n, v in found.items()},
        spread={n: float(np.std(v, ddof=1)) if len(v) > 1 else math.nan for n, v in found.items()},
        diverged=int(np.sum(lost)),
        values=kept,
    )


def rank(row: SweepRow, metric: str, mode: str) -> tuple[bool, int, float]:
    """What rows are sorted by, best first: one that lost a seed comes behind those that did not."""
    value = row.figures[metric]
    return (math.isnan(value), row.diverged, value if mode == "min" else -value)


@dataclasses.dataclass(frozen=True, repr=False)
class SweepTable:
    """All settings of a sweep with what they came to; `print` shows it, best first.

    Attributes:
        rows: In the order of the grid.
        metric: What is compared.
        mode: `"min"` or `"max"`.
        seeds: Runs of each setting.
        programs: How many ensembles trained them all.
    """

    rows: tuple[SweepRow, ...]
    metric: str
    mode: str
    seeds: int
    programs: int

    @property
    def ranked(self) -> list[SweepRow]:
        """The rows, best first; those that diverged with all seeds, last."""
        return sorted(self.rows, key=lambda row: rank(row, self.metric, self.mode))

    @property
    def best(self) -> SweepRow:
        """The row that is first."""
        return self.ranked[0]

    def __iter__(self) -> Iterator[SweepRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        from rich.console import Console  # Takes longer to load than all of treadle.

        text = io.StringIO()
        Console(file=text, width=110, no_color=True).print(self.__rich__())
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    __repr__ = __str__

    def __rich__(self) -> Any:
        from rich import box
        from rich.table import Table

        settings, figures = list(self.rows[0].setting), list(self.rows[0].figures)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
        for name in settings:
            table.add_column(name, justify="right")
        for name in figures:
            table.add_column(name, justify="right", style="bold" if name == self.metric else "")
        table.add_column("")
        for place, row in enumerate(self.ranked):
            cells = [_setting(value) for value in row.setting.values()]
            cells += [_figure(row.figures[name], row.spread[name]) for name in figures]
            table.add_row(*cells, self._note(place, row))
        return table

    def _note(self, place: int, row: SweepRow) -> str:
        if row.diverged == self.seeds:
            return "diverged"
        notes = ["best"] if place == 0 else []
        if row.diverged:
            notes.append(f"{row.diverged} of {self.seeds} seeds diverged")
        return ", ".join(notes)


def _setting(value: Any) -> str:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return f"{value:.4g}" if number else str(value)


def _figure(value: float, spread: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.4g}" if math.isnan(spread) else f"{value:.4g} ± {spread:.2g}"
