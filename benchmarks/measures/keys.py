"""What a key for each example costs: dropout under `vmap` against one draw for the batch."""

from rich.console import Console

from .._options import Options
from .._process import Worker
from .._statistics import Spread, ratio, spread
from .._table import Goal, Table, with_range

TITLE = "Per-example keys"

_CHILD = "benchmarks.measures._keys_child:times"
_SUBJECTS = {
    "draw-256": "dropout alone, 128 by 256",
    "draw-4096": "dropout alone, 128 by 4,096",
    "floor": "the floor's whole step, ref",
    "treadle": "treadle's whole step, ref",
}
IMPLEMENTATIONS = ("threefry2x32", "rbg")


def measure(options: Options, console: Console) -> dict:
    """One fresh process a round: everything is compiled XLA of one library, and takes turns."""
    subjects = ("draw-256",) if options.smoke else tuple(_SUBJECTS)
    found: dict[str, list[list[float]]] = {}
    for number in range(options.rounds):
        console.print(f"keys: round {number + 1} of {options.rounds}", style="dim")
        with Worker() as worker:
            times = worker.call(
                _CHILD,
                subjects=subjects,
                implementations=IMPLEMENTATIONS,
                turns=1 if options.smoke else 15,
                calls=2 if options.smoke else 0,
            )
        for label, turns in times.items():
            found.setdefault(label, []).append(turns)
    return {"microseconds": found, "subjects": list(subjects)}


def _ratio(data: dict, subject: str, implementation: str) -> Spread:
    each, whole = (
        data["microseconds"][f"{subject}/{implementation}/{way}"] for way in ("example", "batch")
    )
    return ratio(each, whole)


def tables(data: dict) -> list[Table]:
    rows = []
    for subject in data["subjects"]:
        for implementation in IMPLEMENTATIONS:
            taken = (
                with_range(
                    spread(
                        value
                        for turns in data["microseconds"][f"{subject}/{implementation}/{way}"]
                        for value in turns
                    )
                )
                for way in ("example", "batch")
            )
            quotient = with_range(_ratio(data, subject, implementation))
            rows.append((_SUBJECTS[subject], implementation, *taken, quotient))
    columns = ("", "keys", "per example, µs", "per batch, µs", "ratio")
    return [Table("A key for each example, against one for the batch", columns, rows)]


def goals(data: dict) -> list[Goal]:
    return [
        Goal(
            f"{_SUBJECTS[subject]}, {implementation}: per example ÷ per batch",
            _ratio(data, subject, implementation).median,
            1.15,
            False,
        )
        for subject in data["subjects"]
        for implementation in IMPLEMENTATIONS
    ]
