"""What `dispatch` and `loop` share: races over the configurations, and their tables."""

from collections.abc import Sequence

from rich.console import Console

from .._configs import CONFIGS, RACES
from .._options import Options
from .._race import race
from .._statistics import ratio, spread
from .._table import Table, number, with_range


def measure(
    names: Sequence[str],
    options: Options,
    console: Console,
    configs: Sequence[str] = RACES,
    smallest: str = "tiny",
) -> dict:
    """Races on every configuration asked for, or else `configs`; the smallest form has one only."""
    chosen = options.configs or ((smallest,) if options.smoke else tuple(configs))
    unknown = sorted(set(chosen) - set(CONFIGS))
    if unknown:
        raise ValueError(f"`--config` names {', '.join(unknown)}; there are {', '.join(CONFIGS)}.")
    return {"configs": {name: race(names, name, options, console) for name in chosen}}


def rates(data: dict, config: str, name: str) -> list[list[float]] | None:
    """Steps per second by round and turn; `None` for who did not run."""
    found = data["configs"][config]["contenders"].get(name)
    return found["rates"] if found else None


def table(data: dict, config: str, title: str, floors: Sequence[str], ours: Sequence[str]) -> Table:
    """A row for each contender: its speed, what part of the floors that is, and ours over it.

    Args:
        data: What `measure` gave.
        config: The configuration.
        title: The table's.
        floors: Contenders to divide by.
        ours: Contenders to be divided by every other.
    """
    raced = data["configs"][config]
    floors = [name for name in floors if name in raced["contenders"]]
    ours = [name for name in ours if name in raced["contenders"]]
    columns = ["contender", "steps/s", *(f"÷ {name}" for name in floors)]
    columns += [f"{name} ÷ it" for name in ours] + ["loss after 50"]
    rows = []
    for name, found in raced["contenders"].items():
        mine = found["rates"]
        speed = spread(value for turns in mine for value in turns)
        row = [name, with_range(speed)]
        row += [with_range(ratio(mine, rates(data, config, floor))) for floor in floors]
        row += [number(ratio(rates(data, config, own), mine).median) for own in ours]
        rows.append([*row, f"{found['loss_after']:.4f}"])
    return Table(title, columns, rows, notes(data, config))


def notes(data: dict, config: str) -> list[str]:
    """Who was left out, and why."""
    skipped = data["configs"][config]["skipped"]
    if not skipped:
        return []
    listed = "; ".join(f"{name} ({why})" for name, why in skipped.items())
    return [f"Skipped: {listed}."]
