"""What a training leaves behind, and how that differs from what it should be."""

import collections
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import treadle
from treadle import checkpoint

_KEPT = 3
"""How many checkpoints a training keeps."""


def verify(run: pathlib.Path) -> int | None:
    """Reads every byte of every checkpoint that has its name; gives the newest's step."""
    # By their names alone: whoever makes a `Checkpointer` tidies up, and that is the training's.
    steps = sorted(int(path.name[5:]) for path in run.glob("checkpoints/step_*"))
    for step in steps:
        with checkpoint.open(_folder(run, step)) as saved:
            saved.verify()
    return max(steps, default=None)


def outcome(run: pathlib.Path, state: Any, history: treadle.History) -> dict[str, Any]:
    """Everything that must be the same, whatever happened on the way.

    Args:
        run: The folder, whose training has ended.
        state: What `fit` returned.
        history: And this.
    """
    newest = verify(run)
    assert newest is not None, "a training that ended has a checkpoint"
    with checkpoint.open(_folder(run, newest)) as saved:
        leaves = {path: _bits(saved[path]) for path in saved}
        kept = {"metadata": saved.metadata, "metrics": saved.metrics}
    return {
        "newest checkpoint": newest,
        "leaves": leaves,
        "kept with it": kept,
        "returned": [_bits(leaf) for leaf in jax.tree.leaves(state)],
        "history": [history.steps, history.eval_steps, *_lists(history.metrics, history.eval)],
        "rows": _lines(run / "metrics.jsonl"),
        "table": _lines(run / "metrics.csv"),
        "checkpoints": sorted(path.name for path in run.glob("checkpoints/step_*"))[-_KEPT:],
        "files": sorted(_others(run)),
    }


def _lines(path: pathlib.Path) -> list[str]:
    return path.read_bytes().decode().split("\n")


def _others(run: pathlib.Path) -> Iterator[str]:
    """What lies there besides checkpoints, which were verified.

    One that was killed as soon as it had written its last checkpoint leaves the lock, which ended
    with it, and the checkpoint that it would have removed; the next save would see to them.
    """
    for path in run.rglob("*"):
        name = str(path.relative_to(run))
        if name != "checkpoints/.lock" and not name.startswith("checkpoints/step_"):
            yield name


def _folder(run: pathlib.Path, step: int) -> pathlib.Path:
    return run / "checkpoints" / f"step_{step:08d}"


def _bits(leaf: Any) -> str:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return f"{array.dtype}{list(array.shape)} {digest}"


def _lists(*columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [{name: np.asarray(values).tolist() for name, values in c.items()} for c in columns]


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What differs, in words; empty where nothing does."""
    told = []
    for name, value in expected.items():
        if found[name] != value:
            told.append(f"{name}: {_difference(found[name], value)}")
    return told


def _difference(found: Any, expected: Any) -> str:
    if isinstance(expected, dict) and found.keys() == expected.keys():
        return str({name: (found[name], v) for name, v in expected.items() if found[name] != v})
    if isinstance(expected, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return str({index: pair for index, pair in pairs if pair[0] != pair[1]})
    if isinstance(expected, list):
        one, other = (collections.Counter(map(str, each)) for each in (found, expected))
        more, fewer = (sorted(each.elements()) for each in (one - other, other - one))
        return f"{len(found)} instead of {len(expected)}; too many: {more}, missing: {fewer}"
    return f"{found} instead of {expected}"
