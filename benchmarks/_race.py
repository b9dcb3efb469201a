"""Races: contenders in processes of their own that take turns, round after round."""

from collections.abc import Sequence

from rich.console import Console

from ._configs import CONFIGS
from ._options import Options
from ._process import Worker, WorkerError
from .contenders import CONTENDERS, Contender

_TURNS = "benchmarks._turns"


def entries(
    names: Sequence[str], config: str, options: Options
) -> tuple[list[Contender], dict[str, str]]:
    """Who takes part, and who does not and why.

    Raises:
        ValueError: If `only` names a contender that does not exist.
    """
    unknown = sorted(set(options.only) - set(CONTENDERS))
    if unknown:
        raise ValueError(f"`--only` names {', '.join(unknown)}; there are {', '.join(CONTENDERS)}.")
    taking_part, skipped = [], {}
    for contender in (CONTENDERS[name] for name in (options.only or names)):
        obstacle = contender.obstacle(CONFIGS[config])
        if obstacle is not None:
            skipped[contender.name] = obstacle
        elif contender.ours or not options.smoke:
            taking_part.append(contender)
    return taking_part, skipped


def race(names: Sequence[str], config: str, options: Options, console: Console) -> dict:
    """Lets the contenders run against each other on one configuration.

    Every round starts a fresh process for each contender. All are built and warmed up; then one at
    a time they run for about a second, in an order that moves on by one each turn, while the
    others sleep: so a disturbance of the machine hits them all alike. (In the smallest form they
    share one process.)

    Returns:
        For each contender, by round, the steps per second of every turn; and its losses.
    """
    taking_part, skipped = entries(names, config, options)
    found: dict = {"contenders": {c.name: {"rates": []} for c in taking_part}, "skipped": skipped}
    for number in range(options.rounds):
        console.print(f"{config}: round {number + 1} of {options.rounds}", style="dim")
        taking_part = _round(taking_part, config, options, found)
    return found


def _round(
    taking_part: list[Contender], config: str, options: Options, found: dict
) -> list[Contender]:
    count = 1 if options.smoke else len(taking_part)
    workers = [Worker() for _ in range(count)]
    try:
        lanes = {c.name: workers[i % count] for i, c in enumerate(taking_part)}
        taking_part = _start(taking_part, lanes, config, found)
        steps = {c.name: _steps(c, lanes[c.name], config, options) for c in taking_part}
        rates: dict[str, list[float]] = {c.name: [] for c in taking_part}
        for turn in range(options.turns):
            shift = turn % len(taking_part)
            for contender in taking_part[shift:] + taking_part[:shift]:
                name = contender.name
                seconds = lanes[name].call(
                    f"{_TURNS}:run", name=name, config=config, steps=steps[name]
                )
                rates[name].append(steps[name] / seconds)
    finally:
        for worker in workers:
            worker.close()
    for name, turns in rates.items():
        found["contenders"][name]["rates"].append(turns)
    return taking_part


def _start(
    taking_part: list[Contender], lanes: dict[str, Worker], config: str, found: dict
) -> list[Contender]:
    """Builds all of them at once; a peer that fails is left out by name, one of ours must not."""
    for contender in taking_part:
        lanes[contender.name].send(f"{_TURNS}:build", name=contender.name, config=config)
    ready = []
    for contender in taking_part:
        try:
            built = lanes[contender.name].receive()
        except WorkerError as error:
            if contender.ours:
                raise
            del found["contenders"][contender.name]
            found["skipped"][contender.name] = f"failed: {str(error).strip().splitlines()[-1]}"
            continue
        found["contenders"][contender.name] |= built
        ready.append(contender)
    return ready


def _steps(contender: Contender, worker: Worker, config: str, options: Options) -> int:
    if options.smoke:
        return contender.multiple * max(1, 50 // contender.multiple)
    return worker.call(
        f"{_TURNS}:calibrate", name=contender.name, config=config, seconds=options.seconds
    )
