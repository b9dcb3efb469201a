"""Tables: the same ones in the terminal and in the docs."""

import dataclasses
from collections.abc import Iterable, Sequence

import rich.markup
import rich.table

from ._statistics import Spread


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, columns of which the first is the row's name, and rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Goal:
    """What was asked for, and what was measured: `at_least` or at most `bound`."""

    name: str
    measured: float
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the measured figure is on the right side."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


def number(value: float) -> str:
    """Three significant digits, or whole where there are more."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def with_range(spread: Spread) -> str:
    """A median and, where it says more, the range it comes from."""
    low, high = number(spread.low), number(spread.high)
    return number(spread.median) if low == high else f"{number(spread.median)} ({low}-{high})"


def goals_table(goals: Iterable[Goal]) -> Table:
    """The goals as a table."""
    rows = [
        (
            goal.name,
            f"{'≥' if goal.at_least else '≤'} {number(goal.bound)}",
            number(goal.measured),
            "met" if goal.met else "missed",
        )
        for goal in goals
    ]
    return Table("Goals", ("goal", "bound", "measured", ""), rows)


def to_rich(table: Table) -> rich.table.Table:
    """For the terminal."""
    drawn = rich.table.Table(title=table.title, caption=" ".join(table.notes) or None)
    for index, column in enumerate(table.columns):
        drawn.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(rich.markup.escape(cell) for cell in row))
    return drawn


def to_markdown(table: Table) -> str:
    """For the docs."""
    lines = [
        f"**{table.title}**",
        "",
        _line(table.columns),
        _line([":---", *["---:"] * (len(table.columns) - 1)]),
        *map(_line, table.rows),
    ]
    return "\n".join([*lines, *(part for note in table.notes for part in ("", note))])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
