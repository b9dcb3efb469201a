"""What `treadle inspect` says, in the terminal."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .._units import binary
from ._compared import Compared, Row
from ._console import ENDLESS, printable
from ._found import Found
from ._inspected import Inspected, Leaf, Listed

# As much of one entry of the metadata as is shown.
_LONG = 300


def _text(value: str, style: str = "") -> Text:
    # As `Text`: brackets in a string would be read as rich's markup.
    return Text(printable(value), style)


def _table(*columns: tuple[str, dict[str, Any]], **options: Any) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), **options)
    for name, column in columns:
        table.add_column(name, **column)
    return table


_RIGHT: dict[str, Any] = {"justify": "right", "no_wrap": True}
_LEFT: dict[str, Any] = {"overflow": "fold"}


def _sides(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _number(value: float) -> str:
    return f"{value:.4g}"


def _metrics(metrics: dict[str, float]) -> Text:
    return _text(", ".join(f"{name}={_number(value)}" for name, value in metrics.items()))


def tell_steps(console: Console, found: Found, listed: Sequence[Listed]) -> None:
    """The checkpoints of a directory."""
    console.print(_text(str(found.directory), "bold"), soft_wrap=True)
    names = list(dict.fromkeys(name for item in listed for name in item.metrics or {}))
    table = _steps(found, listed, names)
    wanted = console.measure(table, options=console.options.update(max_width=ENDLESS)).maximum
    if wanted > console.width:
        table = _steps(found, listed, None)
    console.print(table)
    console.print()


def _steps(found: Found, listed: Sequence[Listed], names: Sequence[str] | None) -> Table:
    """A row for each step; the metrics in columns of these names, or all in one."""
    columns: list[tuple[str, dict[str, Any]]] = [
        ("step", _RIGHT),
        ("leaves", _RIGHT),
        ("on disk", _RIGHT),
        ("written (UTC)", {"no_wrap": True}),
    ]
    has_state = any(item.verified is not None or item.error is not None for item in listed)
    if has_state:
        columns.append(("verified", {"no_wrap": True}))
    if names is None:
        columns.append(("metrics", _LEFT))
    else:
        columns += [(printable(name), _RIGHT) for name in names]
    table = _table(*columns)
    for item in listed:
        cells = [
            _text(f"{item.step:,}", "bold" if item.step == found.step else ""),
            _text("" if item.num_leaves is None else f"{item.num_leaves:,}"),
            _text("" if item.disk is None else binary(item.disk)),
            _text("" if item.written is None else f"{item.written:%Y-%m-%d %H:%M}"),
        ]
        if has_state:
            damaged = item.error is not None
            said = "damaged" if damaged else "yes" if item.verified else ""
            cells.append(_text(said, "red" if damaged else "green"))
        metrics = item.metrics or {}
        if names is None:
            cells.append(_metrics(metrics))
        else:
            cells += [_text(_number(metrics[n]) if n in metrics else "") for n in names]
        table.add_row(*cells)
    return table


def tell(console: Console, inspected: Inspected) -> None:
    """One checkpoint."""
    console.print(_text(str(inspected.path), "bold"), soft_wrap=True)
    _leaves(console, inspected)
    _beside(console, inspected)


def _leaves(console: Console, inspected: Inspected) -> None:
    leaves = inspected.leaves
    table = _table(
        ("leaf", _LEFT),
        ("shape", {"justify": "right", "overflow": "fold"}),
        ("dtype", {"overflow": "fold", "no_wrap": max(map(_dtype_width, leaves), default=0) <= 20}),
        ("numbers", _RIGHT),
        ("on disk", _RIGHT),
    )
    for leaf in leaves:
        cells = (
            leaf.path or "(the tree itself)",
            _sides(leaf.shape),
            leaf.dtype,
            f"{leaf.count:,}",
            binary(leaf.nbytes),
        )
        table.add_row(*map(_text, cells))
    table.add_section()
    parts = _parts(leaves)
    if len(parts) > 1:
        for part, inside in parts:
            table.add_row(*_sum(part, inside, style="dim"))
        table.add_section()
    table.add_row(*_sum("in all", leaves, style="bold"))
    console.print(table)
    hidden = inspected.num_leaves - len(leaves)
    if hidden:
        said = f"{hidden:,} more leaves, which `--only` leaves out"
        console.print(_text(said, "dim"))
    console.print()


def _parts(leaves: Sequence[Leaf]) -> list[tuple[str, list[Leaf]]]:
    """The leaves by the first of their names; those that are alone with it in one lot."""
    parts: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        parts.setdefault(leaf.path.split("/")[0], []).append(leaf)
    several = [(part, inside) for part, inside in parts.items() if len(inside) > 1]
    others = [leaf for inside in parts.values() if len(inside) == 1 for leaf in inside]
    return [*several, ("others", others)] if several and others else several


def _dtype_width(leaf: Leaf) -> int:
    return len(leaf.dtype)


def _sum(name: str, leaves: Sequence[Leaf], style: str) -> list[Text]:
    cells = (
        name,
        "",
        f"{len(leaves):,} {'leaf' if len(leaves) == 1 else 'leaves'}",
        f"{sum(leaf.count for leaf in leaves):,}",
        binary(sum(leaf.nbytes for leaf in leaves)),
    )
    return [_text(cell, style) for cell in cells]


def _beside(console: Console, inspected: Inspected) -> None:
    """What there is beside the leaves."""
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    files = f"{binary(inspected.disk)} ({inspected.disk:,} bytes)"
    grid.add_row("written", f"{inspected.written:%Y-%m-%d %H:%M:%S} UTC")
    grid.add_row("on disk", files)
    if inspected.metrics:
        grid.add_row("metrics", _metrics(inspected.metrics))
    for name, value in inspected.metadata.items():
        grid.add_row(_text(f"metadata {name}"), _text(_json(value)))
    if inspected.static:
        grid.add_row("static fields", f"{len(inspected.static):,}, see `--json`")
    grid.add_row("written by", _text(_versions(inspected.versions)))
    if inspected.verified:
        said = f"every byte is what was written, {binary(inspected.nbytes)} of leaves"
        grid.add_row(_text("verified"), _text(said, "green"))
    console.print(grid)


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= _LONG:
        return text
    return f"{text[:_LONG]}... ({len(text):,} characters, see `--json`)"


def _versions(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or '(unknown)'}" for name, version in versions.items())


def tell_difference(
    console: Console, paths: tuple[str, str], compared: Compared, *, verified: bool
) -> None:
    """Two checkpoints beside each other.

    Args:
        console: Where to.
        paths: Where they are.
        compared: How they differ.
        verified: Whether every byte of both was read.
    """
    for name, path in zip("AB", paths, strict=True):
        console.print(Text(f"{name}  ", "dim") + _text(path, "bold"), soft_wrap=True)
    if verified:
        console.print(Text("verified: every byte of both is what was written", "green"))
    if compared.rows:
        _rows(console, compared.rows)
    console.print(_summary(compared))
    for title, pairs, told in (
        ("static fields", compared.static, str),
        ("metadata", compared.metadata, _json),
        ("metrics", compared.metrics, _number),
        ("versions", compared.versions, str),
    ):
        if pairs:
            _pairs(console, title, pairs, told)


def _rows(console: Console, rows: Sequence[Row]) -> None:
    table = _table(
        ("leaf", _LEFT), ("differs", {"no_wrap": True}), ("how", _LEFT), ("max abs", _RIGHT)
    )
    for row in rows:
        largest = "" if row.max_abs is None else _number(row.max_abs)
        cells = (row.path or "(the tree itself)", row.kind, _how(row), largest)
        table.add_row(*map(_text, cells))
    console.print(table)
    console.print()


def _how(row: Row) -> str:
    if row.kind == "value":
        nans = f", {row.nans:,} NaN" if row.nans else ""
        return f"{row.count:,} of {row.size:,}{nans}"
    return " -> ".join(side for side in (row.a, row.b) if side is not None)


def _summary(compared: Compared) -> Text:
    if not compared:
        said = f"No difference: all leaves are the same, bit for bit ({compared.same:,})."
        return Text(said, "green")
    kinds: dict[str, int] = {}
    for row in compared.rows:
        kinds[row.kind] = kinds.get(row.kind, 0) + 1
    whole = compared.same + len(compared.rows)
    said = [f"{compared.same:,} of {whole:,} leaves are the same, bit for bit"]
    said += [f"{count:,} {_PHRASES[kind]}" for kind, count in kinds.items()]
    return Text("; ".join(said) + ".")


_PHRASES = {
    "value": "have other values",
    "shape": "another shape",
    "dtype": "another dtype",
    "only in A": "are only in A",
    "only in B": "only in B",
}


def _pairs(
    console: Console, title: str, pairs: dict[str, tuple[Any, Any]], told: Callable[[Any], str]
) -> None:
    table = _table((title, _LEFT), ("A", _LEFT), ("B", _LEFT))
    for name, pair in pairs.items():
        sides = ["(not there)" if side is None else told(side) for side in pair]
        table.add_row(*map(_text, (name, *sides)))
    console.print()
    console.print(table)
