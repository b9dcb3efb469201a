"""What `treadle inspect` finds out about a checkpoint."""

import dataclasses
import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._errors import CheckpointError, TreeError
from ..checkpoint import Checkpoint
from ..checkpoint import open as open_checkpoint
from ..tree import select


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A leaf, but for its value.

    Attributes:
        path: Its name.
        shape: Of the leaf itself.
        dtype: As people write it, `key<threefry2x32>` and `python int` among them.
        storage: The dtype in the file; None for what stands in the manifest.
        count: How many numbers it is.
        nbytes: How many bytes it has on disk.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    storage: str | None
    count: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class Inspected:
    """A checkpoint, but for its values.

    Attributes:
        path: Where it is.
        step: Its step; None where its name tells none.
        leaves: Those that were asked for.
        num_leaves: How many there are in all.
        nbytes: How many bytes all of them have on disk.
        disk: How many bytes all of its files have.
        written: When.
        static: The static fields.
        metadata: What was kept with it.
        metrics: What it was judged by.
        versions: Of the packages that wrote it.
        verified: Whether every byte was read and was right; None where nobody asked.
        error: What is wrong with it.
    """

    path: Path
    step: int | None
    leaves: tuple[Leaf, ...]
    num_leaves: int
    nbytes: int
    disk: int
    written: datetime.datetime
    static: dict[str, str]
    metadata: dict[str, Any]
    metrics: dict[str, float]
    versions: dict[str, str | None]
    verified: bool | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            **dataclasses.asdict(self),
            "path": str(self.path),
            "written": self.written.isoformat(),
        }


@dataclasses.dataclass(frozen=True)
class Listed:
    """One checkpoint of several.

    Attributes:
        step: Its step.
        path: Where it is.
        num_leaves: How many leaves it has; None, as the next three, where it cannot be looked into.
        disk: How many bytes all of its files have.
        written: When.
        metrics: What it was judged by.
        verified: Whether every byte was read and was right; None where nobody asked.
        error: What is wrong with it.
    """

    step: int
    path: Path
    num_leaves: int | None = None
    disk: int | None = None
    written: datetime.datetime | None = None
    metrics: dict[str, float] | None = None
    verified: bool | None = None
    error: str | None = None

    @classmethod
    def of(cls, step: int, inspected: Inspected) -> "Listed":
        """What the list tells of it."""
        names = [field.name for field in dataclasses.fields(cls) if field.name != "step"]
        return cls(step, **{name: getattr(inspected, name) for name in names})

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        written = None if self.written is None else self.written.isoformat()
        return {**dataclasses.asdict(self), "path": str(self.path), "written": written}


def chosen(paths: Sequence[str], globs: Sequence[str]) -> list[str]:
    """The paths that one of the globs matches; without globs, all of them.

    Raises:
        TreeError: If a glob matches nothing.
    """
    if not globs:
        return list(paths)
    try:
        hits = select(*globs).matches(paths)
    except TreeError as error:
        raise TreeError(f"`--only` goes by the names of leaves. {error}") from error
    return [path for path, hit in zip(paths, hits, strict=True) if hit]


def inspect(
    path: Path, step: int | None, globs: Sequence[str] = (), *, verify: bool = False
) -> Inspected:
    """Looks into a checkpoint.

    Args:
        path: Where it is.
        step: Its step.
        globs: Which leaves to tell of; none of them means all.
        verify: Whether to read every byte.

    Raises:
        CheckpointError: If its manifest or the length of its file is wrong. What `verify` finds is
            in the result.
        TreeError: If a glob matches nothing.
    """
    with open_checkpoint(path) as saved:
        error = _verify(saved) if verify else None
        names = chosen(list(saved), globs)
        specs, sizes = saved.specs, saved.sizes
        leaves = tuple(
            Leaf(
                name,
                specs[name].shape,
                str(specs[name]).partition("[")[0],
                specs[name].storage,
                math.prod(specs[name].shape),
                sizes[name],
            )
            for name in names
        )
        return Inspected(
            path=saved.path,
            step=step,
            leaves=leaves,
            num_leaves=len(saved),
            nbytes=saved.nbytes,
            disk=sum(file.stat().st_size for file in saved.path.iterdir()),
            written=_written(saved.path),
            static=saved.static,
            metadata=saved.metadata,
            metrics=saved.metrics,
            versions=saved.versions,
            verified=error is None if verify else None,
            error=error,
        )


def _verify(saved: Checkpoint) -> str | None:
    try:
        saved.verify()
    except CheckpointError as error:
        return str(error)
    return None


def _written(path: Path) -> datetime.datetime:
    seconds = (path / "manifest.json").stat().st_mtime
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(microsecond=0)
