"""What each option of a step costs, beside the step without any."""

from rich.console import Console

from .._options import Options
from .._process import platform
from .._statistics import Spread, ratio, spread
from .._table import Goal, Table, number, with_range
from ..contenders import CONTENDERS
from . import _races

TITLE = "Options of a step"

CONFIGS = ("ref", "leafy", "resnet")
PLAIN = "step-plain"
# How far from it the plain step is, and what an average costs by hand.
FLOORS = {"floor": "a bare `jax.jit`", "floor-ema": "the same with an average of its weights"}
OPTIONS = tuple(name for name in CONTENDERS if name.startswith("step-"))

_AT_MOST = {"step-raise": 1.1, "step-ema": 1.1}
# The CPU computes in float32 and converts; accelerators have bfloat16 itself.
_AT_MOST_ACCELERATED = {"step-bf16": 1.0}


def measure(options: Options, console: Console) -> dict:
    raced = _races.measure((*FLOORS, *OPTIONS), options, console, CONFIGS)
    return raced | {"platform": platform()}


def _cost(data: dict, config: str, name: str) -> Spread | None:
    """The time of a step with the option over that of the plain step."""
    plain, option = (_races.rates(data, config, who) for who in (PLAIN, name))
    return ratio(plain, option) if plain and option else None


def _bounds(data: dict) -> dict[str, float]:
    return _AT_MOST | ({} if data["platform"] == "cpu" else _AT_MOST_ACCELERATED)


def tables(data: dict) -> list[Table]:
    return [_table(data, config) for config in data["configs"]]


def _table(data: dict, config: str) -> Table:
    rows = []
    bounds = _bounds(data)
    for name, found in data["configs"][config]["contenders"].items():
        cost = _cost(data, config, name)
        speed = spread(value for turns in found["rates"] for value in turns)
        about = FLOORS.get(name) or CONTENDERS[name].about.removeprefix("`step(state, batch)`: ")
        rows.append(
            (
                name,
                about,
                with_range(speed),
                with_range(cost) if cost else "",
                f"≤ {number(bounds[name])}" if name in bounds else "",
                f"{found['loss_after']:.4f}",
            )
        )
    columns = ("", "option", "steps/s", "time ÷ step-plain", "goal", "loss after 50")
    return Table(f"{TITLE}: {config}", columns, rows, _races.notes(data, config))


def goals(data: dict) -> list[Goal]:
    found = []
    for config in data["configs"]:
        for name, bound in _bounds(data).items():
            cost = _cost(data, config, name)
            if cost:
                title = f"{config}: time of {name} ÷ {PLAIN}"
                floor, by_hand = (_races.rates(data, config, who) for who in FLOORS)
                if name == "step-ema" and floor and by_hand:
                    # A bound below this is out of reach for any library.
                    title += f" (floor-ema ÷ floor: {number(ratio(floor, by_hand).median)})"
                found.append(Goal(title, cost.median, bound, at_least=False))
    return found
