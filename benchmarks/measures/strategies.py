"""How many examples a second the strategies of `treadle.testing` draw."""

from rich.console import Console

from .._options import Options
from .._process import Worker
from .._statistics import spread
from .._table import Goal, Table, with_range

TITLE = "Strategies"

_CHILD = "benchmarks.measures._strategies_child:rates"
_GOAL = 100.0


def measure(options: Options, console: Console) -> dict:
    """A fresh process a round."""
    found: dict[str, list[float]] = {}
    for number in range(options.rounds):
        console.print(f"strategies: round {number + 1} of {options.rounds}", style="dim")
        with Worker() as worker:
            rates = worker.call(_CHILD, count=5 if options.smoke else 500)
        for name, rate in rates.items():
            found.setdefault(name, []).append(rate)
    return {"rates": found}


def tables(data: dict) -> list[Table]:
    rows = [(name, with_range(spread(rates))) for name, rates in data["rates"].items()]
    return [Table("Examples drawn in a second", ("", "a second"), rows)]


def goals(data: dict) -> list[Goal]:
    return [
        Goal(f"{name} a second", spread(rates).median, _GOAL)
        for name, rates in data["rates"].items()
        if name.startswith("modules")
    ]
