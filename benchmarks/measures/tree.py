"""What the functions of `treadle.tree` cost, against bare passes of `jax.tree`."""

from rich.console import Console

from .._options import Options
from .._process import Worker
from .._statistics import Spread, ratio, spread
from .._table import Goal, Table, with_range

TITLE = "Trees"

_CHILD = "benchmarks.measures._tree_child:times"
_LEAVES = 10_000
_BARE = {
    "paths, first time": "`tree_map_with_path`",
    "cast": "`map` of `astype`",
    "ema": "`map` of `0.5 * old + 0.5 * new`",
    "stack": "`map` of `jnp.stack`",
    "unstack": "`map` of `leaf[i]`",
    "migrate": "`optimizer.init`",
}


def measure(options: Options, console: Console) -> dict:
    """A fresh process a round, in which ours and the bare pass take turns."""
    leaves = 100 if options.smoke else _LEAVES
    found: dict[str, list[list[list[float]]]] = {}
    for number in range(options.rounds):
        console.print(f"tree: round {number + 1} of {options.rounds}", style="dim")
        with Worker() as worker:
            times = worker.call(_CHILD, leaves=leaves, turns=options.turns)
        for label, turns in times.items():
            found.setdefault(label, []).append(turns)
    return {"milliseconds": found, "leaves": leaves}


def _side(data: dict, label: str, side: int) -> list[list[float]]:
    return [[pair[side] for pair in turns] for turns in data["milliseconds"][label]]


def _ratio(data: dict, label: str) -> Spread:
    return ratio(_side(data, label, 0), _side(data, label, 1))


def tables(data: dict) -> list[Table]:
    found = []
    for shape in ("module", "dict"):
        rows = []
        for label in data["milliseconds"]:
            if not label.startswith(f"{shape}/"):
                continue
            name = label.removeprefix(f"{shape}/")
            taken = (
                with_range(spread(time for turns in _side(data, label, side) for time in turns))
                for side in (0, 1)
            )
            rows.append(
                (name, _BARE.get(name, "`map` of nothing"), *taken, with_range(_ratio(data, label)))
            )
        columns = ("", "bare `jax.tree`", "ours, ms", "bare, ms", "ratio")
        title = {"module": "An Equinox module", "dict": "A dictionary"}[shape]
        found.append(Table(f"{title} of {data['leaves']:,} leaves", columns, rows))
    return found


def goals(data: dict) -> list[Goal]:
    return [
        Goal(f"{label}: ours ÷ bare", _ratio(data, label).median, 3.0, False)
        for label in data["milliseconds"]
    ]
