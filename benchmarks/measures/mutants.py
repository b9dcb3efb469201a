"""Whether the laws of `treadle.testing` find broken transformations, how soon, and how small."""

from collections.abc import Iterable

from rich.console import Console

from .._options import Options
from .._process import Worker
from .._statistics import Spread, spread
from .._table import Goal, Table, with_range
from ..mutants import LAWS

TITLE = "Mutants of the laws"
PAGE = "mutants.md"

_CHILD = "benchmarks.measures._mutants_child:outcomes"
_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
_EXAMPLES = 100
"""Hypothesis's default."""


def measure(options: Options, console: Console) -> dict:
    """Each mutant once a round, with other examples; in the first, what is found is shrunk, and the
    right transformations run."""
    found: dict[str, list[dict]] = {}
    with Worker(_DEVICES) as worker:
        for number in range(options.rounds):
            for law in LAWS:
                told = f"{_name(law)}: round {number + 1} of {options.rounds}"
                console.print(told, style="dim")
                outcomes = worker.call(
                    _CHILD,
                    law=law,
                    rights=0 if number or options.smoke else None,
                    wrongs=1 if options.smoke else None,
                    examples=_EXAMPLES,
                    seed=number,
                    shrink=number == 0,
                )
                _gather(found.setdefault(law, []), outcomes)
    return {"laws": found, "rounds": options.rounds, "examples": _EXAMPLES}


def _name(law: str) -> str:
    """The function of a law."""
    return "assert_audited" if law == "audited" else f"check_{law}"


def _gather(rows: list[dict], outcomes: list[dict]) -> None:
    """Adds a round to the rows of a law, by their names."""
    by_name = {row["name"]: row for row in rows}
    for outcome in outcomes:
        turns = {key: outcome.pop(key) for key in ("caught", "error", "examples", "seconds")}
        if outcome["name"] not in by_name:
            rows.append({**outcome, "rounds": []})
            by_name[outcome["name"]] = rows[-1]
        by_name[outcome["name"]]["rounds"].append(turns)


def _mutants(rows: Iterable[dict]) -> list[dict]:
    return [row for row in rows if not row["right"]]


def _rights(rows: Iterable[dict]) -> list[dict]:
    return [row for row in rows if row["right"]]


def _caught(row: dict) -> int:
    return sum(turn["caught"] for turn in row["rounds"])


def _is_caught(row: dict) -> bool:
    return _caught(row) == len(row["rounds"])


def _errors(row: dict) -> list[str]:
    return [turn["error"] for turn in row["rounds"] if turn["error"]]


def _spread(row: dict, figure: str) -> Spread:
    return spread(turn[figure] for turn in row["rounds"])


def _whole(found: Spread) -> str:
    low, high = int(found.low), int(found.high)
    return str(low) if low == high else f"{int(found.median)} ({low}-{high})"


def _all_rows(data: dict) -> list[dict]:
    return [row for rows in data["laws"].values() for row in rows]


def _seconds(rows: Iterable[dict]) -> float:
    rows = list(rows)
    finding = sum(turn["seconds"] for row in rows for turn in row["rounds"])
    return finding + sum(row["seconds_shrinking"] for row in rows)


def tables(data: dict) -> list[Table]:
    found = [_totals(data), *(_law(law, rows) for law, rows in data["laws"].items())]
    return [*found, _right(data)] if _rights(_all_rows(data)) else found


def _totals(data: dict) -> Table:
    rows = [_total(_name(law), rows) for law, rows in data["laws"].items()]
    rows.append(_total("all", _all_rows(data)))
    columns = ("law", "mutants", "caught", "right ones", "refused", "seconds")
    note = (
        f"Caught is what was found in each of {data['rounds']} rounds of other examples, at most "
        f"{data['examples']} in each."
    )
    errors = [f"{row['name']}: {error}" for row in _all_rows(data) for error in _errors(row)]
    return Table("Mutants of each law", columns, rows, [note, *errors])


def _total(name: str, rows: list[dict]) -> tuple[str, ...]:
    mutants, rights = _mutants(rows), _rights(rows)
    counts = (
        len(mutants),
        sum(map(_is_caught, mutants)),
        len(rights),
        sum(1 for row in rights if _caught(row)),
    )
    return (name, *map(str, counts), f"{_seconds(rows):.0f}")


def _law(law: str, rows: list[dict]) -> Table:
    columns = ("mutant", "caught", "examples", "seconds", "leaves", "elements", "characters")
    return Table(_name(law), columns, [_mutant(row) for row in _mutants(rows)])


def _mutant(row: dict) -> tuple[str, ...]:
    caught = f"{_caught(row)} of {len(row['rounds'])}"
    shrunk = (str(row.get(name, "")) for name in ("leaves", "elements"))
    return (
        row["name"],
        "error" if _errors(row) else caught,
        _whole(_spread(row, "examples")),
        with_range(_spread(row, "seconds")),
        *shrunk,
        str(len(row["code"])) if "code" in row else "",
    )


def _right(data: dict) -> Table:
    rows = [
        (
            f"{_name(law)}: {row['name']}",
            "error" if _errors(row) else "refused" if _caught(row) else "passes",
            _whole(_spread(row, "examples")),
            with_range(_spread(row, "seconds")),
        )
        for law, found in data["laws"].items()
        for row in _rights(found)
    ]
    return Table("Right transformations", ("", "", "examples", "seconds"), rows)


def goals(data: dict) -> list[Goal]:
    rows = _all_rows(data)
    mutants, rights = _mutants(rows), _rights(rows)
    return [
        Goal("mutants caught", sum(map(_is_caught, mutants)), len(mutants)),
        Goal("right ones refused", sum(1 for row in rights if _caught(row)), 0, False),
        Goal(
            "errors of the transformations themselves", sum(map(len, map(_errors, rows))), 0, False
        ),
    ]
