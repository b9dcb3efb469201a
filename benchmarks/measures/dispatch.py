"""How fast a user's own loop runs over each library's step."""

from rich.console import Console

from .._options import Options
from .._statistics import ratio
from .._table import Goal, Table
from . import _races

TITLE = "A loop over single steps"

CONTENDERS = (
    "floor",
    "floor-bare",
    "treadle-step",
    "equinox",
    "equinox-donated",
    "linen",
    "linen-donated",
    "nnx",
    "nnx-cached",
    "nnx-split",
    "haiku",
    "pytorch",
    "pytorch-fused",
)


def measure(options: Options, console: Console) -> dict:
    return _races.measure(CONTENDERS, options, console)


def tables(data: dict) -> list[Table]:
    floors, ours = ("floor", "floor-bare"), ("treadle-step",)
    return [
        _races.table(data, config, f"{TITLE}: {config}", floors, ours) for config in data["configs"]
    ]


def goals(data: dict) -> list[Goal]:
    found = []
    for config in data["configs"]:
        ours, floor = (_races.rates(data, config, name) for name in ("treadle-step", "floor"))
        if ours and floor:
            name = f"{config}: `step(state, batch)` of the floor"
            found.append(Goal(name, ratio(ours, floor).median, 0.9))
    return found
