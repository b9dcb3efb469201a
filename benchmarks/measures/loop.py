"""How fast each library's own training loop runs, with what a user sees of it switched on."""

from rich.console import Console

from .._options import Options
from .._statistics import ratio
from .._table import Goal, Table, number
from . import _races

TITLE = "Whole loops"

CONTENDERS = (
    "floor",
    "floor-scan",
    "floor-scan-stacking",
    "treadle-fit",
    "treadle-fit-50",
    "treadle-scan",
    "equinox",
    "linen",
    "klax",
    "klax-logged",
    "keras",
    "keras-logged",
    "keras-16",
    "lightning",
    "lightning-logged",
)

_GOALS = (
    ("treadle-fit", "floor", 0.85),
    ("treadle-fit-50", "floor-scan", 0.9),
)
_LEAFY_GOALS = (
    ("treadle-fit", "equinox", 4.5),
    ("treadle-fit", "linen", 1.9),
    ("treadle-fit", "klax", 4.0),
    ("treadle-fit", "lightning", 11.0),
)


def measure(options: Options, console: Console) -> dict:
    return _races.measure(CONTENDERS, options, console)


def tables(data: dict) -> list[Table]:
    floors, ours = ("floor", "floor-scan"), ("treadle-fit", "treadle-fit-50")
    return [
        _races.table(data, config, f"{TITLE}: {config}", floors, ours) for config in data["configs"]
    ]


def goals(data: dict) -> list[Goal]:
    found = []
    for config in data["configs"]:
        for name, reference, bound in _GOALS + (_LEAFY_GOALS if config == "leafy" else ()):
            ours, other, floor = (
                _races.rates(data, config, who) for who in (name, reference, "floor")
            )
            if ours and other:
                title = f"{config}: {name} ÷ {reference}"
                if floor and reference not in ("floor", "floor-scan"):
                    # A bound above this is out of reach for any library.
                    title += f" (the floor: {number(ratio(floor, other).median)})"
                found.append(Goal(title, ratio(ours, other).median, bound))
    return found
