"""The summary of a model, and how it is printed."""

import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .._units import short
from ._paths import join

# What `str` has room for; in a terminal it is the terminal's width.
_WIDTH = 110
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
# As much as a path is left at least, however narrow the terminal.
_PATH_WIDTH = 12


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One module of a model.

    Attributes:
        path: Where it is in the model, `"layers/0"`; `""` is the model itself.
        type: Name of its class.
        arrays: Its own arrays (not those of modules inside it), as `"weight f32[8,4]"`. One that
            stands elsewhere before is counted there, and told here: `"weight = embedding/weight"`.
        output: The shapes it returned, a text for each call; empty where it was not called.
        count: Elements of its own arrays.
        nbytes: Their bytes.
        flops: Floating point operations of its own code (not those of modules that it calls), all
            calls together; None where no example was given.
        trainable_count: How many of the elements are trained.
        trainable_nbytes: Their bytes.
    """

    path: str
    type: str
    arrays: tuple[str, ...]
    output: tuple[str, ...]
    count: int
    nbytes: int
    flops: int | None
    trainable_count: int
    trainable_nbytes: int

    @property
    def trainable(self) -> str:
        """`"yes"`, `"no"` or `"partly"`; empty where there is nothing that could be."""
        if self.count == 0:
            return ""
        if self.trainable_count == 0:
            return "no"
        return "yes" if self.trainable_count == self.count else "partly"


def _bytes_text(count: int) -> str:
    power = min(max(count.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    value = count / 1024**power
    digits = 0 if power == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {_UNITS[power]}"


def _calls_text(calls: tuple[str, ...]) -> str:
    """One line for each shape, in order of first appearance, with how often it came."""
    return "\n".join(
        text if calls.count(text) == 1 else f"{text} x{calls.count(text)}"
        for text in dict.fromkeys(calls)
    )


def _share_text(row: SummaryRow, total: int | None) -> str:
    """Rounded to whole per cents, but neither down to nothing nor up to all of it."""
    if row.flops is None or not (row.output or row.flops):
        return ""
    share = row.flops / total if total else 0.0
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"


def _fold(path: str, width: int | None) -> str:
    """`path` in lines of at most `width`, broken after slashes where that will do."""
    if width is None:
        return path
    lines = [""]
    for part in path.replace("/", "/\n").split("\n"):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


class _Column(NamedTuple):
    name: str
    cell: Callable[[SummaryRow], str]
    total: str = ""
    is_number: bool = True


def _columns(told: "Summary", with_arrays: bool, path_width: int | None) -> list[_Column]:
    columns = [
        _Column("path", lambda row: _fold(row.path or ".", path_width), "total", False),
        _Column("type", lambda row: row.type, "", False),
    ]
    if with_arrays:
        columns.append(_Column("arrays", lambda row: "\n".join(row.arrays), "", False))
    if told.flops is not None:
        columns.append(_Column("output", lambda row: _calls_text(row.output), told.output, False))
    columns += [
        _Column("params", lambda row: f"{row.count:,}" if row.arrays else "", f"{told.count:,}"),
        _Column(
            "bytes",
            lambda row: _bytes_text(row.nbytes) if row.arrays else "",
            _bytes_text(told.nbytes),
        ),
    ]
    if told.flops is not None:
        share = lambda row: _share_text(row, told.flops)
        columns.append(_Column("flops", share, short(told.flops)))
    return [*columns, _Column("trained", lambda row: row.trainable, f"{told.trainable_count:,}")]


def _table(told: "Summary", with_arrays: bool = True, path_width: int | None = None) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Narrow gaps and short headings: an ordinary model's table fits into 80 columns.
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, show_edge=False, padding=(0, 1, 0, 0))
    columns = _columns(told, with_arrays, path_width)
    for column in columns:
        # As `Text`: brackets in a string would be read as rich's markup.
        table.add_column(
            column.name,
            footer=Text(column.total),
            justify="right" if column.is_number else "left",
            no_wrap=column.is_number,
            overflow="fold",
        )
    for row in told.rows:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    return table


def _fitted(told: "Summary", console: Any, options: Any) -> Iterator[Any]:
    """The table (without each module's arrays where it is too wide), and what is to be noted."""
    from rich.text import Text

    unbounded = options.update(max_width=1 << 16)

    def excess(table: Any) -> int:
        return console.measure(table, options=unbounded).maximum - options.max_width

    table = _table(told)
    notes = list(told.notes)
    if excess(table) > 0:
        table = _table(told, with_arrays=False)
        notes = [*_ties(told), *notes]
    if excess(table) > 0:
        longest = max(len(row.path) for row in told.rows)
        table = _table(told, False, max(longest - excess(table), _PATH_WIDTH))
    yield table
    yield from (Text(f"note: {note}") for note in notes)


def _ties(told: "Summary") -> list[str]:
    return [join(row.path, array) for row in told.rows for array in row.arrays if " = " in array]


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
    """A model's parts and their sizes; `print` shows it as a table.

    Attributes:
        rows: Every module that has arrays or operations of its own, or no modules inside it.
        output: Shapes that the model returned; empty where no example was given.
        notes: Which operations are not in `flops`, or not exactly.
    """

    rows: tuple[SummaryRow, ...]
    output: str
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Elements in all arrays, each array counted once."""
        return sum(row.count for row in self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, each array counted once."""
        return sum(row.nbytes for row in self.rows)

    @property
    def flops(self) -> int | None:
        """Floating point operations of a forward pass; None where no example was given."""
        known = [row.flops for row in self.rows if row.flops is not None]
        return sum(known) if known else None

    @property
    def trainable_count(self) -> int:
        """How many of the elements are trained."""
        return sum(row.trainable_count for row in self.rows)

    @property
    def trainable_nbytes(self) -> int:
        """The bytes of what is trained."""
        return sum(row.trainable_nbytes for row in self.rows)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        return _fitted(self, console, options)

    def __str__(self) -> str:
        from rich.console import Console  # Heavy, and of use only here.

        file = io.StringIO()
        Console(file=file, width=_WIDTH, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())

    __repr__ = __str__
