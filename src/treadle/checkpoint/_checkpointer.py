"""The checkpoints of one training: a folder for each step, old ones removed."""

import contextlib
import difflib
import functools
import os
import pathlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from jaxtyping import PyTree

from .._checks import whole_number
from .._custom_types import Door
from .._errors import ArgumentValueError, CheckpointError, CheckpointNotFoundError
from ._background import Background
from ._claim import Claim, claim, settle
from ._folders import clean, remove
from ._load import load, read_metadata
from ._manifest import read_manifest
from ._prepared import Prepared, prepare
from ._retention import retention
from ._save import check_target, telling, write_checkpoint
from ._steps import name_of, steps_in


class Checkpointer:
    """Saves and restores a training step by step, each in a folder `step_00001200`.

    A checkpoint is written as `treadle.save` does it: a folder with such a name is complete. What
    a killed process left half-written is never listed, and is removed when the next `Checkpointer`
    of the directory is made.

    `save` returns as soon as the tree may change again; the checkpoint is written meanwhile, one at
    a time. An error on the way is raised by the next call of any method, with its cause. What is on
    the host already (a training on CPU) is not copied for that: the next step finds its memory
    looked at, and takes new memory for the state until the old one is on disk. What is on other
    devices is copied to the host, and let go leaf by leaf.

    After each save, checkpoints that no `keep_` argument asks for are removed; never before the
    new one is complete, and never the one written last.

    The first `save` locks the directory for this process. A second process that saves there is
    told, and so is a second `Checkpointer` while this one is at work. The lock ends with `close`,
    with the `Checkpointer`, or with the process, however that ends.

    Args:
        directory: Where the folders lie; made when the first one is written.
        keep_last: Keep this many of the greatest steps; None keeps all checkpoints.
        keep_best: `(metric, "min" or "max", count)`: also keep the `count` best, judged by the
            `metrics` that they were saved with. Those saved without metrics are not judged.
        keep_every: Also keep those whose step is a multiple of this.
        asynchronous: Whether to write while the training goes on. With False `save` returns when
            the checkpoint is on disk, and has held at most one leaf in host memory.

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
        # The process may go elsewhere while checkpoints are written.
        self.directory = pathlib.Path(directory).absolute()
        self.asynchronous = asynchronous
        self._retention = retention(keep_last, keep_best, keep_every)
        self._metrics: dict[int, Mapping[str, float]] = {}
        self._background = Background()
        self._claim: Claim | None = None
        self._owner = object()
        if self.directory.is_dir():
            clean(self.directory)
        elif self.directory.exists():
            raise CheckpointError(
                f"`directory` (={str(self.directory)!r}) is a file: give a folder for the "
                "checkpoints to lie in."
            )

    def __repr__(self) -> str:
        return f"Checkpointer({str(self.directory)!r}, steps={self._steps()})"

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            # What went wrong first is what is raised.
            error.add_note(f"Besides: {failure}")

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
            tree: Any pytree; see `treadle.save`. It may be donated or changed afterwards.
            metadata: A dictionary of JSON values to keep with it.
            metrics: Scalars by name, which `keep_best` judges by.
            overwrite: Whether to replace the checkpoint of this step, if there is one.

        Raises:
            CheckpointError: If there is one already, a leaf cannot be saved, another process writes
                to the directory, or the disk is full. If the save before failed, which went on in
                the background: nothing is saved then, and the next call tries again.
            ArgumentTypeError: If `metadata` is not JSON, or a metric not a number.
            ArgumentValueError: If there are metrics, and what `keep_best` asks for is not among
                them.
        """
        step = whole_number("step", step, minimum=0)
        self.wait()
        prepared = prepare(tree, metadata, metrics)
        self._require_judged(prepared.metrics)
        path = self.directory / name_of(step)
        if not overwrite and os.path.lexists(path):
            raise CheckpointError(
                f"There is a checkpoint of `step` (={step}) in {str(self.directory)!r} already: "
                "say `overwrite=True` to replace it."
            )
        with telling(path):
            claimed = self._claimed()
        claimed.require_directory()
        check_target(path, overwrite)
        saving = object()
        try:
            claimed.begin_save(saving)
            if self.asynchronous:
                prepared.hold()
                name = f"The save of step {step} to {str(self.directory)!r}"
                job = functools.partial(self._write, step, prepared, overwrite, claimed, saving)
                self._background.start(name, job)
                return
        except BaseException:
            if self._background.is_idle:  # Else it is under way, though we were interrupted.
                claimed.end_save(saving)
            raise
        self._write(step, prepared, overwrite, claimed, saving)

    def _write(
        self, step: int, prepared: Prepared, overwrite: bool, claimed: Claim, saving: object
    ) -> None:
        try:
            # Or it would be made again, and be nobody's.
            claimed.require_directory()
            try:
                write_checkpoint(self.directory / name_of(step), prepared, overwrite)
            except CheckpointError:
                claimed.require_directory()
                raise
            self._metrics.pop(step, None)
            self._remove_superseded(step)
        finally:
            claimed.end_save(saving)

    def _claimed(self) -> Claim:
        if self._claim is None or not self._claim.is_of(self._owner):
            self._claim = claim(self.directory, self._owner)
            weakref.finalize(self, self._claim.give_up, self._owner)
        return self._claim

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        """For as long as a training goes on, nobody else may save to the directory."""
        with telling(self.directory):
            claimed = self._claimed()
        with claimed.training():
            yield

    def _require_judged(self, metrics: Mapping[str, float]) -> None:
        best = self._retention.best
        if best is None or not metrics or best[0] in metrics:
            return
        near = difflib.get_close_matches(best[0], metrics, n=1, cutoff=0.3) or list(metrics)
        raise ArgumentValueError(
            f"`keep_best` judges by {best[0]!r}, which is not among the metrics that the "
            f"checkpoint comes with: {', '.join(map(repr, metrics))}. Did you mean {near[0]!r}?"
        )

    def _remove_superseded(self, newest: int) -> None:
        steps = self._steps()
        known = {step: self._metrics_of(step) for step in steps}
        # One that cannot be read now may be the best of all: it is not removed.
        self._metrics = {step: figures for step, figures in known.items() if figures is not None}
        for step in self._retention.superseded(self._metrics, newest):
            try:
                remove(self.directory / name_of(step))
            except FileNotFoundError:
                continue  # Another process was faster.
            except OSError as error:
                raise CheckpointError(
                    f"The checkpoint of step {newest} was saved, but that of step {step}, which it "
                    f"supersedes, could not be removed: {error}."
                ) from error

    def _metrics_of(self, step: int) -> Mapping[str, float] | None:
        if step not in self._metrics:
            try:
                return read_manifest(self.directory / name_of(step)).metrics
            except CheckpointError as error:
                if isinstance(error.__cause__, OSError):
                    return None
                # Damaged, or just removed by another process: it is not among the best, and no
                # reason for the checkpoint that was just written to fail.
                return {}
        return self._metrics[step]

    def restore(
        self,
        like: PyTree,
        *,
        step: Door[int | None] = None,
        strict: bool = True,
        rename: Door[Mapping[str, str] | None] = None,
        only: Door[Sequence[str] | None] = None,
        cast: bool = False,
    ) -> PyTree:
        """Loads the tree of a step.

        Args:
            like: A tree of the same structure, shapes and dtypes; see `treadle.load`.
            step: Which step; None is the greatest.
            strict: See `treadle.load`, as the rest.
            rename: New names of leaves, by globs.
            only: Globs of leaves to load.
            cast: Whether to convert numbers to the precision of `like`.

        Raises:
            CheckpointNotFoundError: If there is no such checkpoint.
            CheckpointError: If it does not fit `like`, or is damaged.
        """
        folder = self._folder(step)
        return load(folder, like, strict=strict, rename=rename, only=only, cast=cast)

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
        return self.directory / name_of(chosen)

    def latest_step(self) -> int | None:
        """The greatest step that there is a complete checkpoint of; None if there is none.

        Raises:
            CheckpointError: If a save in the background failed.
        """
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """The steps that there are complete checkpoints of, in increasing order.

        A save that is under way is waited for.

        Raises:
            CheckpointError: If it failed.
        """
        self.wait()
        return self._steps()

    def _steps(self) -> list[int]:
        return steps_in(self.directory)

    def wait(self) -> None:
        """Returns when everything that was saved is on disk.

        Raises:
            CheckpointError: If a save failed, with its cause.
        """
        self._background.wait()
        # What another `Checkpointer` of the process is saving to the directory.
        settle(self.directory)

    def close(self) -> None:
        """Waits, and lets others write to the directory. The next `save` locks it again.

        Raises:
            CheckpointError: If a save failed, with its cause.
        """
        try:
            self.wait()
        finally:
            claimed, self._claim = self._claim, None
            if claimed is not None:
                claimed.give_up(self._owner)
