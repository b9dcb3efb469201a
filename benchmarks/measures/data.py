"""Examples a second through each source, alone and feeding a step, and how long the step waits."""

import importlib.metadata
import importlib.util

from rich.console import Console

from .._configs import CONFIGS
from .._options import Options
from .._process import Worker
from .._statistics import Spread, spread
from .._table import Goal, Table, with_range
from ._data_sources import SOURCES

TITLE = "Feeding the step"

_CHILD = "benchmarks.measures._data_child:rates"
_CONFIGS = ("ref", "tf")
_SMOKE = ("arrays", "huggingface", "grain")
_COUNT = {"tf": 1024}
_MOST_WAIT = 2.0
_ENOUGH = 2.0


def measure(options: Options, console: Console) -> dict:
    """A fresh process for each source, configuration and round; in it the step, and the source."""
    configs = options.configs or (("tiny",) if options.smoke else _CONFIGS)
    _refuse("--config", configs, CONFIGS)
    _refuse("--only", options.only, SOURCES)
    names = options.only or (_SMOKE if options.smoke else tuple(SOURCES))
    skipped = {name: why for name in names if (why := SOURCES[name].missing())}
    found: dict[str, dict[str, list]] = {
        config: {name: [] for name in names if name not in skipped} for config in configs
    }
    for config, sources in found.items():
        count = 256 if options.smoke else _COUNT.get(config, 8192)
        for number in range(options.rounds):
            for name, rounds in sources.items():
                told = f"{config}, {name}: round {number + 1} of {options.rounds}"
                console.print(told, style="dim")
                with Worker() as worker:
                    turns = worker.call(
                        _CHILD,
                        config=config,
                        names=[name],
                        count=count,
                        turns=options.turns,
                        seconds=options.seconds,
                    )
                rounds.append(turns[name])
    return {"configs": found, "skipped": skipped, "versions": _versions(names)}


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    """Of the packages behind the sources, those that are installed."""
    wanted = sorted({package for name in names for package in SOURCES[name].requires})
    installed = [package for package in wanted if importlib.util.find_spec(package)]
    return {package: importlib.metadata.version(package) for package in installed}


def _refuse(option: str, given: tuple[str, ...], known: dict) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"`{option}` names {', '.join(unknown)}; there are {', '.join(known)}.")


def _spread(rounds: list, *path: str) -> Spread:
    def figure(turn: dict) -> float:
        value: dict | float = turn
        for name in path:
            value = value[name]  # type: ignore[index]
        return float(value)  # type: ignore[arg-type]

    return spread(figure(turn) for turns in rounds for turn in turns)


def _ratio(rounds: list, upper: str, lower: str) -> Spread:
    return spread(turn[upper] / turn[lower] for turns in rounds for turn in turns)


def tables(data: dict) -> list[Table]:
    columns = (
        "source",
        "opens in, s",
        "alone, examples/s",
        "alone ÷ step",
        "step fed, examples/s",
        "with `prefetch`",
        "step waits, %",
        "with `prefetch`, %",
    )
    found = []
    for config, sources in data["configs"].items():
        rows = [
            (
                name,
                with_range(_spread(rounds, "bare", "opening")),
                with_range(_spread(rounds, "alone")),
                with_range(_ratio(rounds, "alone", "step")),
                with_range(_spread(rounds, "bare", "rate")),
                with_range(_spread(rounds, "ahead", "rate")),
                with_range(_spread(rounds, "bare", "wait_percent")),
                with_range(_spread(rounds, "ahead", "wait_percent")),
            )
            for name, rounds in sources.items()
        ]
        step = with_range(
            spread(turn["step"] for r in sources.values() for turns in r for turn in turns)
        )
        notes = [f"The step on batches that lie ready: {step} examples a second."]
        if data["skipped"]:
            listed = ", ".join(f"{name} ({why})" for name, why in data["skipped"].items())
            notes.append(f"Skipped, for want of a package: {listed}.")
        versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
        notes.append(f"Read by {versions or 'nothing but NumPy'}.")
        found.append(Table(f"{TITLE}: {config}", columns, rows, notes))
    return found


def goals(data: dict) -> list[Goal]:
    """Of each source that is fast enough: that the step does not wait for it."""
    found = []
    for config, sources in data["configs"].items():
        for name, rounds in sources.items():
            if _ratio(rounds, "alone", "step").median >= _ENOUGH:
                waits = _spread(rounds, "ahead", "wait_percent").median
                title = f"{config}: the step waits for {name}, made ahead, %"
                found.append(Goal(title, waits, _MOST_WAIT, at_least=False))
    return found
