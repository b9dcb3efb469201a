"""What of the state lives on in place, and how much memory a training of a large model takes."""

from rich.console import Console

from .._configs import RACES
from .._options import Options
from .._process import Worker
from .._statistics import ratio, spread
from .._table import Goal, Table, number, with_range

TITLE = "Memory"

_CHILD = "benchmarks.measures._memory_child"
_WAYS = ("floor", "treadle-fit", "equinox-donated", "equinox")
_OURS = ("floor", "treadle-fit")
_GIGABYTE = 8192
_SMALL = 1024


def measure(options: Options, console: Console) -> dict:
    """The compiled programs' own figures, then the high-water mark of fresh processes."""
    configs = ("tiny",) if options.smoke else RACES
    with Worker() as worker:
        aliased = {name: worker.call(f"{_CHILD}:aliased", config=name) for name in configs}
    width = _SMALL if options.smoke else _GIGABYTE
    peaks: dict[str, list[dict]] = {
        name: [] for name in _WAYS if name in _OURS or not options.smoke
    }
    for round_number in range(options.rounds):
        for name, found in peaks.items():
            console.print(f"{name}: round {round_number + 1} of {options.rounds}", style="dim")
            with Worker() as worker:
                found.append(worker.call(f"{_CHILD}:peak", name=name, width=width))
    return {"aliased": aliased, "peaks": peaks}


def tables(data: dict) -> list[Table]:
    aliased = [
        (
            config,
            *(
                f"{found[who]['aliased']:,} of {found[who]['state']:,} "
                f"({found[who]['aliased'] / found[who]['state']:.0%})"
                for who in ("treadle", "floor")
            ),
        )
        for config, found in data["aliased"].items()
    ]
    peaks = [
        (
            name,
            number(found[0]["model_bytes"] / 1e9),
            with_range(spread(run["peak_bytes"] / 1e9 for run in found)),
            with_range(_against_floor(data, name)),
        )
        for name, found in data["peaks"].items()
    ]
    return [
        Table("State aliased in the compiled program, bytes", ("", "treadle", "floor"), aliased),
        Table(
            "Peak host memory of a process that trains a large model with adamw",
            ("loop", "model, GB", "peak, GB", "÷ floor"),
            peaks,
        ),
    ]


def _against_floor(data: dict, name: str):
    def peaks(who: str) -> list[list[float]]:
        return [[run["peak_bytes"]] for run in data["peaks"][who]]

    return ratio(peaks(name), peaks("floor"))


def goals(data: dict) -> list[Goal]:
    found = [
        Goal(
            f"{config}: state aliased",
            entry["treadle"]["aliased"] / entry["treadle"]["state"],
            1.0,
        )
        for config, entry in data["aliased"].items()
    ]
    name = "peak memory of `fit(copy=False)` ÷ the floor's"
    return [*found, Goal(name, _against_floor(data, "treadle-fit").median, 1.15, False)]
