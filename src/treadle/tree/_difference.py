"""What differs between two trees, as an object that prints as a table."""

import dataclasses
import io
from collections.abc import Iterator
from typing import Any

from ._values import Deviation

_WIDTH = 110
_ROWS = 40
_WIDTH_OF_PATHS = 40
_WIDTH_OF_VALUES = 14


@dataclasses.dataclass(frozen=True)
class Difference:
    """One difference between two trees.

    Attributes:
        path: Where, `"layers/0/weight"`; `""` is the whole tree.
        kind: What differs. `"only in a"`, `"only in b"`: a leaf that the other lacks. `"type"`: an
            array against something else, a NumPy array against one of JAX's, a container of another
            kind. `"key"`: a dictionary's keys that are written alike, `1` and `"1"`. `"order"`: the
            keys of an ordered container. `"static"`: a static field. `"leaf"`: a leaf that is no
            array. `"shape"`, `"dtype"`, `"weak type"`, `"sharding"`,
            `"value"`: of arrays.
        a: What the first tree has there, as text.
        b: What the second has.
        deviation: For `"value"`, how far apart the numbers are.
    """

    path: str
    kind: str
    a: str
    b: str
    deviation: Deviation | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class Diff:
    """All differences between two trees; true where there are any. `print` shows a table.

    Attributes:
        differences: In the order of the leaves.
    """

    differences: tuple[Difference, ...]

    def __bool__(self) -> bool:
        return bool(self.differences)

    def __len__(self) -> int:
        return len(self.differences)

    def __iter__(self) -> Iterator[Difference]:
        return iter(self.differences)

    @property
    def paths(self) -> tuple[str, ...]:
        """Where there are differences, each path once."""
        return tuple(dict.fromkeys(difference.path for difference in self.differences))

    def __rich__(self) -> Any:
        return _table(self) if self.differences else "no differences"

    def __str__(self) -> str:
        from rich.console import Console  # Heavy, and of use only here.

        file = io.StringIO()
        Console(file=file, width=_WIDTH, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    __repr__ = __str__


def _table(diff: Diff) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rest = len(diff) - _ROWS
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 2, 0, 0),
        caption=f"and {rest:,} more" if rest > 0 else None,
        caption_justify="left",
    )
    told = diff.differences[:_ROWS]
    has_deviations = any(difference.deviation for difference in told)
    longest = max(len(difference.path) for difference in told)
    # Paths are what one looks for, so they are broken last.
    table.add_column("path", overflow="fold", no_wrap=longest <= _WIDTH_OF_PATHS)
    table.add_column("differs", no_wrap=True)
    for name in ("a", "b"):
        width = max(len(getattr(difference, name)) for difference in told)
        table.add_column(name, overflow="fold", no_wrap=width <= _WIDTH_OF_VALUES)
    if has_deviations:
        table.add_column("by")
    for difference in told:
        cells = [difference.path or ".", difference.kind, difference.a, difference.b]
        if has_deviations:
            cells.append(str(difference.deviation or ""))
        # As `Text`: brackets in a string would be read as rich's markup.
        table.add_row(*map(Text, cells))
    return table
