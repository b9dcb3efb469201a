"""What a path leads to: a checkpoint, a directory of them, or a run folder with one."""

import dataclasses
from pathlib import Path

from .._errors import ArgumentValueError, CheckpointNotFoundError
from ..checkpoint._save import is_checkpoint
from ..checkpoint._steps import name_of, step_of, steps_in


@dataclasses.dataclass(frozen=True)
class Found:
    """The checkpoint that a path leads to.

    Attributes:
        path: The checkpoint.
        step: Its step; None where its name tells none.
        directory: The directory that it was chosen from; None where the path was its own.
        steps: All steps that there are in that directory.
    """

    path: Path
    step: int | None
    directory: Path | None = None
    steps: tuple[int, ...] = ()

    def of(self, step: int) -> Path:
        """The checkpoint of another step of the same directory."""
        return (self.directory or self.path.parent) / name_of(step)


def find_checkpoint(path: Path, step: int | None = None) -> Found:
    """What a path leads to.

    Args:
        path: A checkpoint, a directory of checkpoints, or a run folder.
        step: Which one of a directory; None is the newest.

    Raises:
        CheckpointNotFoundError: If there is none, or none of that step.
        ArgumentValueError: If there is a step, and `path` is one checkpoint.
    """
    for directory in () if is_checkpoint(path) else (path, path / "checkpoints"):
        steps = tuple(steps_in(directory)) if directory.is_dir() else ()
        if steps:
            chosen = steps[-1] if step is None else step
            if chosen not in steps:
                raise CheckpointNotFoundError(
                    f"There is no checkpoint of step {step} in {str(directory)!r}: there "
                    f"are those of {', '.join(map(str, steps))}."
                )
            return Found(directory / name_of(chosen), chosen, directory, steps)
    if path.is_dir() and not is_checkpoint(path):
        raise CheckpointNotFoundError(
            f"There is no checkpoint in {str(path)!r}: give a checkpoint (a folder with a "
            "`manifest.json`), a directory of them (`step_...`), or a run folder."
        )
    if step is not None:
        raise ArgumentValueError(
            f"`--step` (={step}) chooses from a directory of checkpoints, and {str(path)!r} is "
            "none: leave it out, or give the directory."
        )
    # What is neither there nor a checkpoint, `open` tells of.
    return Found(path, step_of(path.resolve().name))
