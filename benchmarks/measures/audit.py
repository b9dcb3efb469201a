"""What `treadle.audit` finds in a corpus of training steps, and what it costs."""

from collections.abc import Iterable

from rich.console import Console

from .._options import Options
from .._process import Worker
from .._statistics import Spread, ratio, spread
from .._table import Goal, Table, with_range

TITLE = "Audit"

_CHILD = "benchmarks.measures._audit_child:{}"
_LAYERS = 24


def measure(options: Options, console: Console) -> dict:
    """The corpus once; and in each round a process that audits a transformer, and compiles it."""
    with Worker() as worker:
        console.print("audit: the corpus", style="dim")
        groups = worker.call(_CHILD.format("groups"))
        rows = []
        for group in groups:
            console.print(f"audit: {group}", style="dim")
            rows += worker.call(
                _CHILD.format("outcomes"), group=group, most=1 if options.smoke else None
            )
    layers = 2 if options.smoke else _LAYERS
    times: dict[str, list[list[float]]] = {"plain": [], "audit": []}
    for number in range(options.rounds):
        console.print(f"audit: cost, round {number + 1} of {options.rounds}", style="dim")
        with Worker() as worker:
            found = worker.call(_CHILD.format("times"), layers=layers, turns=options.turns)
        for name, turns in found.items():
            times[name].append(turns)
    return {"rows": rows, "times": times, "layers": layers}


def _wrong(rows: Iterable[dict]) -> list[dict]:
    return [row for row in rows if row["wrong"] and not row["skipped"]]


def _right(rows: Iterable[dict]) -> list[dict]:
    return [row for row in rows if not row["wrong"] and not row["skipped"]]


def _caught(rows: Iterable[dict]) -> int:
    return sum(row["caught"] for row in _wrong(rows))


def _at_line(rows: Iterable[dict]) -> int:
    return sum(row["at_line"] for row in _wrong(rows))


def _false(rows: Iterable[dict]) -> int:
    return sum(len(row["unexpected"]) for row in rows if not row["skipped"])


def _cost(data: dict) -> Spread:
    return ratio(data["times"]["audit"], data["times"]["plain"])


def tables(data: dict) -> list[Table]:
    rows = data["rows"]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    table = [_group(group, [row for row in rows if row["group"] == group]) for group in groups]
    table.append(_group("all", rows))
    columns = ("rule", "wrong", "caught", "right line", "right", "false findings")
    skipped = sorted({row["skipped"] for row in rows if row["skipped"]})
    notes = [f"Left out, because {name} is not installed." for name in skipped]
    notes += [
        f"{row['group']}: {row['name']}: expected {row['expected']}, found {row['found']}."
        for row in rows
        if not row["skipped"] and sorted(row["expected"]) != sorted(row["found"])
    ]
    costs = [
        (name, with_range(spread(each for turns in data["times"][key] for each in turns)))
        for key, name in (("plain", "trace, lower, compile"), ("audit", "audit"))
    ]
    costs.append(("ratio", with_range(_cost(data))))
    about = f"A transformer of {data['layers']} layers"
    return [Table("Steps of the corpus", columns, table, notes), Table(about, ("", "s"), costs)]


def _group(name: str, rows: list[dict]) -> tuple[str, ...]:
    counts = len(_wrong(rows)), _caught(rows), _at_line(rows), len(_right(rows)), _false(rows)
    return (name, *map(str, counts))


def goals(data: dict) -> list[Goal]:
    rows = data["rows"]
    return [
        Goal("wrong steps caught", _caught(rows), len(_wrong(rows))),
        Goal("at the right line", _at_line(rows), len(_wrong(rows))),
        Goal("false findings", _false(rows), 0, False),
        Goal("audit ÷ trace, lower and compile", _cost(data).median, 1.5, False),
    ]
