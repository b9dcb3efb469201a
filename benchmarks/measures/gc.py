"""What Python's garbage collector does to the time of single steps, on a model of many leaves."""

from rich.console import Console

from .._configs import DEEP
from .._options import Options
from .._process import Worker
from .._statistics import Spread, ratio, spread
from .._table import Goal, Table, with_range

TITLE = "Garbage collection"

_CHILD = "benchmarks.measures._gc_child:step_times"
_WAYS = (
    ("equinox", True),
    ("equinox", False),
    ("floor", True),
    ("floor", False),
    ("treadle-fit", True),
    ("treadle-step", True),
    ("treadle-step", False),
)
_SMOKE = (("floor", False), ("treadle-fit", True))


def measure(options: Options, console: Console) -> dict:
    """1,500 steps of each way in a fresh process, one way after the other, round after round."""
    ways = _SMOKE if options.smoke else _WAYS
    steps = 30 if options.smoke else 1500
    found: dict[str, list[dict]] = {_label(*way): [] for way in ways}
    for number in range(options.rounds):
        for name, collecting in ways:
            label = _label(name, collecting)
            console.print(f"{label}: round {number + 1} of {options.rounds}", style="dim")
            with Worker() as worker:
                times = worker.call(_CHILD, name=name, collecting=collecting, steps=steps)
            found[label].append(times)
    return {"ways": found, "steps": steps, "layers": DEEP.depth, "width": DEEP.width}


def _label(name: str, collecting: bool) -> str:
    return f"{name}, collector {'on' if collecting else 'off'}"


def _spread(data: dict, label: str, figure: str) -> Spread:
    return spread(times[figure] for times in data["ways"][label])


def tables(data: dict) -> list[Table]:
    columns = ("loop", "p50, ms", "p99, ms", "max, ms", "in the collector, %", "collections")
    figures = ("p50_ms", "p99_ms", "max_ms", "collector_percent", "collections")
    rows = [
        (label, *(with_range(_spread(data, label, figure)) for figure in figures))
        for label in data["ways"]
    ]
    title = f"{data['steps']:,} steps of a {data['layers']}-layer MLP of width {data['width']}"
    note = "The last two columns: time in the collector, and its full collections alone."
    return [Table(title, columns, rows, [note])]


def goals(data: dict) -> list[Goal]:
    fit, floor = (
        [[times["p99_ms"]] for times in data["ways"][label]]
        for label in (_label("treadle-fit", True), _label("floor", False))
    )
    name = "p99 of `fit` with the collector on ÷ the floor's with it off"
    return [Goal(name, ratio(fit, floor).median, 1.2, False)]
