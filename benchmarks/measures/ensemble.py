"""How fast one program trains many models, beside training them one after another."""

from rich.console import Console

from .._configs import ENSEMBLE_SIZE
from .._options import Options
from .._statistics import ratio, spread
from .._table import Goal, Table, number, with_range
from . import _races

TITLE = f"{ENSEMBLE_SIZE} models"

CONFIGS = ("small", "tiny")
CONTENDERS = (
    "floor-members",
    "floor-vmap",
    "equinox-members",
    "treadle-ensemble",
    "treadle-ensemble-scan",
)

_GOALS = (("floor-members", 5.0), ("equinox-members", 20.0))


def measure(options: Options, console: Console) -> dict:
    return _races.measure(CONTENDERS, options, console, CONFIGS, smallest="small")


def tables(data: dict) -> list[Table]:
    return [_table(data, config) for config in data["configs"]]


def _table(data: dict, config: str) -> Table:
    raced = data["configs"][config]["contenders"]
    references = [name for name, _ in _GOALS if name in raced]
    columns = ["contender", "member-steps/s", *(f"÷ {name}" for name in references)]
    rows = []
    for name, found in raced.items():
        mine = found["rates"]
        speed = spread(ENSEMBLE_SIZE * value for turns in mine for value in turns)
        row = [name, with_range(speed)]
        row += [with_range(ratio(mine, _races.rates(data, config, who))) for who in references]
        rows.append([*row, f"{found['loss_after']:.4f}"])
    columns.append("mean loss after 50")
    return Table(f"{TITLE}: {config}", columns, rows, _races.notes(data, config))


def goals(data: dict) -> list[Goal]:
    found = []
    for config in data["configs"]:
        for name, bound in _GOALS:
            ours, other, mapped = (
                _races.rates(data, config, who) for who in ("treadle-ensemble", name, "floor-vmap")
            )
            if ours and other:
                title = f"{config}: treadle-ensemble ÷ {name}"
                if mapped:
                    # A bound above this is out of reach for any library.
                    title += f" (floor-vmap: {number(ratio(mapped, other).median)})"
                found.append(Goal(title, ratio(ours, other).median, bound))
    return found
