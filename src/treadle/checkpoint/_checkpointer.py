"""The checkpoints of one training: a folder for each step, old ones removed."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from jaxtyping import PyTree

from .._checks import whole_number
from .._custom_types import Door
from .._errors import CheckpointError, CheckpointNotFoundError
from ._folders import clean, remove
from ._load import load, read_metadata
from ._manifest import read_manifest
from ._retention import retention
from ._save import is_checkpoint, write_checkpoint

_STEP = re.compile(r"step_(\d{8,})")


def _name(step: int) -> str:
    return f"step_{step:08d}"


class Checkpointer:
    """Saves and restores a training step by step, each in a folder `step_00001200`.

    A checkpoint is written as `treadle.save` does it: a folder with such a name is complete. What
    a killed process left half-written is never listed, and is removed when the next `Checkpointer`
    of the directory is made.

    After each save, checkpoints that no `keep_` argument asks for are removed; never before the
    new one is complete, and never the one written last.

    Args:
        directory: Where the folders lie; made when the first one is written.
        keep_last: Keep this many of the greatest steps; None keeps all checkpoints.
        keep_best: `(metric, "min" or "max", count)`: also keep the `count` best, judged by the
            `metrics` that they were saved with. Those saved without that metric are not judged.
        keep_every: Also keep those whose step is a multiple of this.
        asynchronous: Accepted, and without effect in this version: `save` returns when the
            checkpoint is on disk.

    Attributes:
        directory: Where the folders lie.

    Raises:
        ArgumentTypeError: If a `keep_` argument is of the wrong type.
        ArgumentValueError: If a count is not positive.
        CheckpointError: If `directory` is a file.

    Example:
        >>> checkpointer = treadle.Checkpointer("runs/digits/checkpoints", keep_last=2)
        >>> checkpointer.save(100, state, metrics={"accuracy": 0.97})
        >>> state = checkpointer.restore(state)
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: Door[int | None] = 3,
        keep_best: Door[tuple[str, str, int] | None] = None,
        keep_every: Door[int | None] = None,
        asynchronous: bool = True,
    ):
        self.directory = pathlib.Path(directory)
        self._retention = retention(keep_last, keep_best, keep_every)
        self._metrics: dict[int, Mapping[str, float]] = {}
        if self.directory.is_dir():
            clean(self.directory)
        elif self.directory.exists():
            raise CheckpointError(
                f"`directory` (={str(self.directory)!r}) is a file: give a folder for the "
                "checkpoints to lie in."
            )

    def __repr__(self) -> str:
        return f"Checkpointer({str(self.directory)!r}, steps={self.steps()})"

    def save(
        self,
        step: Door[int],
        tree: PyTree,
        *,
        metadata: Door[dict[str, Any] | None] = None,
        metrics: Door[Mapping[str, Any] | None] = None,
        overwrite: bool = False,
    ) -> None:
        """Saves a tree as the checkpoint of a step, and removes those that it supersedes.

        Args:
            step: Which step, from 0.
            tree: Any pytree; see `treadle.save`.
            metadata: A dictionary of JSON values to keep with it.
            metrics: Scalars by name, which `keep_best` judges by.
            overwrite: Whether to replace the checkpoint of this step, if there is one.

        Raises:
            CheckpointError: If there is one already, a leaf cannot be saved, or the disk is full.
            ArgumentTypeError: If `metadata` is not JSON, or a metric not a number.
        """
        step = whole_number("step", step, minimum=0)
        path = self.directory / _name(step)
        if not overwrite and os.path.lexists(path):
            raise CheckpointError(
                f"There is a checkpoint of `step` (={step}) in {str(self.directory)!r} already: "
                "say `overwrite=True` to replace it."
            )
        write_checkpoint(path, tree, metadata, metrics, overwrite)
        self._metrics.pop(step, None)
        self._remove_superseded(step)

    def _remove_superseded(self, newest: int) -> None:
        steps = self.steps()
        self._metrics = {step: self._metrics_of(step) for step in steps}
        for step in self._retention.superseded(self._metrics, newest):
            try:
                remove(self.directory / _name(step))
            except FileNotFoundError:
                continue  # Another process was faster.
            except OSError as error:
                raise CheckpointError(
                    f"The checkpoint of step {newest} was saved, but that of step {step}, which it "
                    f"supersedes, could not be removed: {error}."
                ) from error

    def _metrics_of(self, step: int) -> Mapping[str, float]:
        if step not in self._metrics:
            try:
                return read_manifest(self.directory / _name(step)).metrics
            except CheckpointError:
                # Damaged, or just removed by another process: it is not among the best, and no
                # reason for the checkpoint that was just written to fail.
                return {}
        return self._metrics[step]

    def restore(self, like: PyTree, *, step: Door[int | None] = None) -> PyTree:
        """Loads the tree of a step.

        Args:
            like: A tree of the same structure, shapes and dtypes; see `treadle.load`.
            step: Which step; None is the greatest.

        Raises:
            CheckpointNotFoundError: If there is no such checkpoint.
            CheckpointError: If it does not fit `like`, or is damaged.
        """
        return load(self._folder(step), like)

    def metadata(self, step: Door[int | None] = None) -> dict[str, Any]:
        """The metadata of a step.

        Args:
            step: Which step; None is the greatest.

        Raises:
            CheckpointNotFoundError: If there is no such checkpoint.
            CheckpointError: If it is damaged.
        """
        return read_metadata(self._folder(step))

    def _folder(self, step: Any) -> pathlib.Path:
        steps = self.steps()
        if not steps:
            raise CheckpointNotFoundError(
                f"There is no checkpoint in `directory` (={str(self.directory)!r}): save one "
                "first, or give the directory that they were saved in."
            )
        chosen = (
            steps[-1]
            if step is None
            else whole_number("step", step, minimum=0, otherwise=", or None for the newest")
        )
        if chosen not in steps:
            raise CheckpointNotFoundError(
                f"There is no checkpoint of `step` (={chosen}) in {str(self.directory)!r}; there "
                f"are those of {', '.join(map(str, steps))}."
            )
        return self.directory / _name(chosen)

    def latest_step(self) -> int | None:
        """The greatest step that there is a complete checkpoint of; None if there is none."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """The steps that there are complete checkpoints of, in increasing order."""
        if not self.directory.is_dir():
            return []
        found = []
        for name in os.listdir(self.directory):
            match = _STEP.fullmatch(name)
            if match and name == _name(int(match[1])) and is_checkpoint(self.directory / name):
                found.append(int(match[1]))
        return sorted(found)

    def wait(self) -> None:
        """Returns when everything that was saved is on disk: in this version, at once."""
