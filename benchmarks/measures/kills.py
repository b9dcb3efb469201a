"""Whether a training that is killed is the same training in the end, bit for bit."""

import functools
import pathlib
import tempfile
import time
from collections.abc import Sequence

from rich.console import Console

from .._options import Options
from .._table import Goal, Table
from ..kills.pool import Pool

TITLE = "Killed trainings"

_MOMENTS = 40
"""Random moments a round."""
# Where a training is cut off, so that the one that goes on is then killed at each of its own write
# points: in the middle of a save, of the removal of an old checkpoint, and of a row.
_CUT_OFF = (
    "half of write checkpoints/.step_00000018.new/leaves-00000.eqx #1",
    "unlink checkpoints/.step_00000012.gone/leaves-00000.eqx #1",
    "half of write metrics.jsonl #8",
)
_SMOKE_EVERY = 60
_FAILURES = 20


def measure(options: Options, console: Console) -> dict:
    """Two trainings at a time, each in a folder and processes of its own."""
    moments = 4 if options.smoke else _MOMENTS * options.rounds
    cuts, every = (_CUT_OFF[:1], _SMOKE_EVERY) if options.smoke else (_CUT_OFF, 1)
    with tempfile.TemporaryDirectory() as directory, Pool(pathlib.Path(directory)) as pool:
        return run(pool, console, moments=moments, cuts=cuts, every=every)


def run(pool: Pool, console: Console, *, moments: int, cuts: Sequence[str], every: int) -> dict:
    """Kills trainings.

    Args:
        pool: Has the processes.
        console: Is told how far it is.
        moments: At how many random moments.
        cuts: Where a training is cut off that is then killed as it goes on.
        every: One write point out of how many.
    """
    reference = pool.call("reference", run=pool.folder("reference"))
    expected = reference["outcome"]
    # Where it began is its own affair.
    del expected["began"]
    kinds = {"random moments": _moments(pool, moments, reference)}
    kinds["every write point"] = _points(pool, "first", _some(reference["points"], every), expected)
    for number, cut in enumerate(cuts):
        begun = pool.folder(f"cut-off-{number}")
        points = _some(pool.call("cut_off", run=begun, point=cut), every)
        kinds.setdefault("every write point of one that goes on", []).extend(
            _points(pool, f"cut off at {cut}", points, expected, begun)
        )
    found = {}
    for kind, calls in kinds.items():
        start = time.perf_counter()
        outcomes = pool.map(calls, functools.partial(_tell, console, kind, len(calls)))
        found[kind] = _total(outcomes) | {"seconds": time.perf_counter() - start}
    return {"kinds": found, "steps": expected["newest checkpoint"]}


def _some(points: list[str], every: int) -> list[str]:
    return points[every // 2 :: every]


def _moments(pool: Pool, count: int, reference: dict) -> list[tuple[str, dict]]:
    same = {"expected": reference["outcome"]} | {n: reference[n] for n in ("stepping", "seconds")}
    return [
        ("at_moment", {"run": pool.folder(f"moment-{seed}"), "seed": seed, **same})
        for seed in range(count)
    ]


def _points(
    pool: Pool, start: str, points: list[str], expected: dict, begun: str | None = None
) -> list[tuple[str, dict]]:
    return [
        (
            "at_point",
            {
                "run": pool.folder(f"{pathlib.Path(begun or start).name}-{number}"),
                "name": f"{start}, {point}",
                "point": point,
                "expected": expected,
                "begun": begun,
            },
        )
        for number, point in enumerate(points)
    ]


def _tell(console: Console, kind: str, count: int, done: int, outcome: dict) -> None:
    for failure in outcome["failures"]:
        console.print(failure, style="red", markup=False)
    if done == count or not done % 20:
        console.print(f"{kind}: {done} of {count}", style="dim")


def _total(outcomes: list[dict]) -> dict:
    figures = {name: sum(each[name] for each in outcomes) for name in ("kills", "saving", "lives")}
    failures = [failure for each in outcomes for failure in each["failures"]]
    return {"trainings": len(outcomes), **figures, "failures": failures}


_COUNTS = ("trainings", "kills", "saving", "lives")


def tables(data: dict) -> list[Table]:
    kinds = data["kinds"]
    rows = [(kind, *_cells([found])) for kind, found in kinds.items()]
    rows.append(("all", *_cells(list(kinds.values()))))
    columns = ("killed at", "trainings", "kills", "during a save", "processes", "failures", "s")
    failures = [failure for found in kinds.values() for failure in found["failures"]]
    note = (
        "A failure is a checkpoint that does not load or verify, an error, or a bit of the last "
        "checkpoint, the state, the history, `metrics.jsonl` (with the examples of each batch) or "
        "a file's name that is not as in the training that nobody kills."
    )
    title = f"A training of {data['steps']} steps, killed with SIGKILL"
    return [Table(title, columns, rows, [note, *failures[:_FAILURES]])]


def _cells(found: list[dict]) -> tuple[str, ...]:
    counts = [sum(each[name] for each in found) for name in _COUNTS]
    failures = sum(len(each["failures"]) for each in found)
    seconds = sum(each["seconds"] for each in found)
    return (*(f"{count:,}" for count in counts), str(failures), f"{seconds:.0f}")


def goals(data: dict) -> list[Goal]:
    kinds = data["kinds"].values()
    failures = sum(len(found["failures"]) for found in kinds)
    return [
        Goal("kills at random moments", data["kinds"]["random moments"]["kills"], 200),
        Goal("failures", failures, 0, False),
    ]
