"""The process of `corruption`: damages checkpoints, reads them, and tells what was said."""

import collections
import os
import pathlib
import resource
import shutil
import tempfile
from typing import Any

from treadle import CheckpointError

from ..corruption import damage as damages
from ..corruption import hostile as forgeries
from ..corruption import reading, subject
from ..corruption.watch import Watch

_READERS = ("load", "verify")
_MIB = 1 << 20
# What a reader may take beyond what it has: the least that is claimed is four times as much.
_SPARE = 1 << 30
_FAILURES = 20


def damaged(kind: str, count: int, seed: int) -> dict[str, Any]:
    """Reads a checkpoint that is damaged in one place, again and again.

    Args:
        kind: What happens to it, one of `KINDS`.
        count: How often.
        seed: Where.
    """
    found: dict[str, collections.Counter] = {}
    failures: list[str] = []
    like = subject.make_tree()
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory) / "checkpoint"
        files = subject.write(folder)
        leaves = subject.leaves(folder)
        for damage in damages.drawn(files, kind, count, seed):
            (folder / damage.file).write_bytes(damage.content)
            counts = found.setdefault(damage.file, collections.Counter())
            counts["damages"] += 1
            for name, error in reading.refusals(folder, like, _READERS).items():
                wrong = _wrong(error, damage, leaves)
                counts[f"{name}: refused"] += isinstance(error, CheckpointError)
                counts[f"{name}: told where"] += wrong is None
                if wrong is not None and len(failures) < _FAILURES:
                    failures.append(f"{kind}, {damage.file} at {damage.at}, {name}: {wrong}")
            (folder / damage.file).write_bytes(files[damage.file])
        clean = reading.refusals(folder, like)
        failures += [f"{name} refuses what is not damaged" for name in clean if clean[name]]
    return {"files": found, "failures": failures}


def _wrong(error: Any, damage: damages.Damage, leaves: list[dict]) -> str | None:
    """What an error lacks."""
    if error is None:
        return "not refused"
    if not isinstance(error, CheckpointError):
        return f"{type(error).__name__}: {error}"
    if damage.file not in str(error):
        return f"the file is not named in {str(error)!r}"
    if damage.file != "manifest.json" and f"`{damage.leaf(leaves)}`" not in str(error):
        return f"the leaf `{damage.leaf(leaves)}` is not named in {str(error)!r}"
    return None


def hostile(most: int | None) -> dict[str, Any]:
    """Reads forged checkpoints, in a process that may not take a gigabyte more than it has.

    Args:
        most: How many; all if `None`.
    """
    found = {"cases": 0, "refused": 0, "readings": 0, "to refuse": 0, "failures": [], "seen": []}
    like = subject.make_tree()
    with tempfile.TemporaryDirectory() as directory:
        folder, outside = (pathlib.Path(directory) / name for name in ("checkpoint", "outside"))
        subject.write(folder)
        reading.warm_up(folder, like)
        before = _peak()
        resource.setrlimit(resource.RLIMIT_AS, (_size() + _SPARE, resource.RLIM_INFINITY))
        for case in forgeries.CASES[:most]:
            outside.mkdir()
            _try(case, folder, outside, like, found)
            shutil.rmtree(outside)
        found["extra_mib"] = (_peak() - before) / _MIB
    return found


def _try(
    case: forgeries.Case, folder: pathlib.Path, outside: pathlib.Path, like: Any, found: dict
) -> None:
    forged = folder.with_name("forged")
    shutil.copytree(folder, forged)
    case.forge(forged)
    with Watch(forged, outside) as watch:
        errors = reading.refusals(forged, like)
    shutil.rmtree(forged)
    found["cases"] += 1
    found["seen"] += [f"{case.name}: {what}" for what in watch.found]
    for name, error in errors.items():
        found["readings"] += 1
        found["to refuse"] += name in case.refused_by
        if isinstance(error, CheckpointError):
            found["refused"] += name in case.refused_by
        elif error is not None or name in case.refused_by:
            found["failures"].append(f"{case.name}, {name}: {error!r}")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _size() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
