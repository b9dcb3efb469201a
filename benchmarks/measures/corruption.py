"""Whether damaged and forged checkpoints are refused, each of them."""

import collections

from rich.console import Console

from .._options import Options
from .._process import Worker
from .._table import Goal, Table
from ..corruption.damage import KINDS

TITLE = "Damaged checkpoints"

_CHILD = "benchmarks.measures._corruption_child:"
_COUNT = 10_000
"""Of each kind, over all rounds."""


def measure(options: Options, console: Console) -> dict:
    """A fresh process a round, each with other damages; the forgeries once."""
    files: dict[str, dict[str, collections.Counter]] = {kind: {} for kind in KINDS}
    failures: list[str] = []
    for number in range(options.rounds):
        with Worker() as worker:
            for kind in KINDS:
                console.print(f"{kind}: round {number + 1} of {options.rounds}", style="dim")
                count = 100 if options.smoke else -(-_COUNT // options.rounds)
                found = worker.call(_CHILD + "damaged", kind=kind, count=count, seed=number)
                failures += found["failures"]
                for file, counts in found["files"].items():
                    files[kind].setdefault(file, collections.Counter()).update(counts)
    console.print("forgeries", style="dim")
    with Worker() as worker:
        hostile = worker.call(_CHILD + "hostile", most=None)
    return {"files": files, "failures": failures, "hostile": hostile}


def _totals(data: dict) -> collections.Counter:
    totals: collections.Counter = collections.Counter()
    for files in data["files"].values():
        for counts in files.values():
            totals.update(counts)
    return totals


def tables(data: dict) -> list[Table]:
    rows = [
        (f"{kind}: `{file}`", *_cells(counts))
        for kind, files in data["files"].items()
        for file, counts in files.items()
    ]
    rows.append(("all", *_cells(_totals(data))))
    columns = ("", "damages", "`load` refuses", "tells where", "`verify` refuses", "tells where")
    note = (
        "Where: the file, and of the bytes of a leaf which leaf it is. Refused is what raises a "
        "`treadle.CheckpointError`."
    )
    title = "Checkpoints damaged in one place"
    return [Table(title, columns, rows, [note, *data["failures"]]), _forged(data)]


def _cells(counts: dict) -> tuple[str, ...]:
    names = [f"{reader}: {what}" for reader in ("load", "verify") for what in _FIGURES]
    return tuple(f"{counts[name]:,}" for name in ("damages", *names))


_FIGURES = ("refused", "told where")


def _forged(data: dict) -> Table:
    found = data["hostile"]
    row = (
        "all of a checkpoint's digests are right",
        f"{found['cases']:,}",
        f"{found['refused']:,} of {found['to refuse']:,}",
        str(len(found["seen"])),
        f"{found['extra_mib']:.0f}",
    )
    columns = ("", "forgeries", "refused", "opened outside or unpickled", "memory taken, MiB")
    note = (
        "Each is read by `load`, by `verify` and leaf by leaf. What merely does not fit the tree "
        "is only refused by `load`; `verify` compares bytes, not what they mean. The process could "
        "not have taken a gigabyte."
    )
    notes = [note, *found["failures"], *found["seen"]]
    return Table("Forged checkpoints", columns, [row], notes)


def goals(data: dict) -> list[Goal]:
    totals, hostile = _totals(data), data["hostile"]
    damages = [
        Goal(f"damaged: {reader}: {what}", totals[f"{reader}: {what}"], totals["damages"])
        for reader in ("load", "verify")
        for what in _FIGURES
    ]
    return [
        *damages,
        Goal("undamaged ones refused, and other errors", len(data["failures"]), 0, False),
        Goal("forged: readings refused", hostile["refused"], hostile["to refuse"]),
        Goal("forged: other errors", len(hostile["failures"]), 0, False),
        Goal("forged: opened outside or unpickled", len(hostile["seen"]), 0, False),
        Goal("forged: MiB taken", hostile["extra_mib"], 64, False),
    ]
