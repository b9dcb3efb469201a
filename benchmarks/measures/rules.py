"""Whether the corpus of the audit notices when a rule is broken a little."""

from rich.console import Console

from .._options import Options
from .._process import Worker
from .._table import Goal, Table
from ..rules import MUTANTS

TITLE = "Mutants of the rules"
PAGE = "mutants.md"

_CHILD = "benchmarks.measures._rules_child:outcomes"
_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}


def measure(options: Options, console: Console) -> dict:
    """Each change once, in a process of its own."""
    rules = list(dict.fromkeys(mutant.rule for mutant in MUTANTS))
    chosen = [rule for rule in rules if not options.only or rule in options.only]
    if options.smoke and not options.only:
        chosen = chosen[-1:]
    rows = []
    for rule in chosen:
        console.print(f"rules: {rule}", style="dim")
        with Worker(_DEVICES) as worker:
            rows += worker.call(_CHILD, rule=rule, most=1 if options.smoke else None)
    for row in rows:
        if row["error"] and not row["mutant"]:
            raise RuntimeError(f"{row['rule']} as it is could not be tried: {row['error']}")
    return {"rows": rows}


def _mutants(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["mutant"]]


def _noticed(rows: list[dict]) -> int:
    return sum(row["noticed"] is not None for row in _mutants(rows))


def tables(data: dict) -> list[Table]:
    rows = data["rows"]
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    totals = [_total(rule, [row for row in rows if row["rule"] == rule]) for rule in rules]
    totals.append(_total("all", rows))
    errors = [f"{row['rule']}, {row['name']}: {row['error']}" for row in rows if row["error"]]
    errors += [
        f"{row['rule']} as it is fails in {row['noticed']!r}."
        for row in rows
        if not row["mutant"] and row["noticed"] is not None
    ]
    columns = ("rule", "mutants", "killed", "seconds")
    single = [
        (
            row["rule"],
            row["name"],
            row["noticed"] or ("error" if row["error"] else "survives"),
            str(row["steps"]),
            f"{row['seconds']:.0f}",
        )
        for row in _mutants(rows)
    ]
    return [
        Table("Mutants of each rule", columns, totals, errors),
        Table("Each of them", ("rule", "mutant", "killed by", "steps", "seconds"), single),
    ]


def _total(name: str, rows: list[dict]) -> tuple[str, ...]:
    seconds = sum(row["seconds"] for row in rows)
    return name, str(len(_mutants(rows))), str(_noticed(rows)), f"{seconds:.0f}"


def goals(data: dict) -> list[Goal]:
    rows = data["rows"]
    own = sum(row["noticed"] is not None or bool(row["error"]) for row in rows if not row["mutant"])
    return [
        Goal("mutants killed", _noticed(rows), len(_mutants(rows))),
        Goal("rules as they are that fail", own, 0, False),
    ]
