"""The folders of a training's checkpoints, by step."""

import pathlib
import re

from ._folders import names_in
from ._save import is_checkpoint

_STEP = re.compile(r"step_(\d{8,})")


def name_of(step: int) -> str:
    """The folder of a step."""
    return f"step_{step:08d}"


def step_of(name: str) -> int | None:
    """The step of a folder; None if it is not that of one."""
    match = _STEP.fullmatch(name)
    if match is None or name != name_of(int(match[1])):
        return None
    return int(match[1])


def steps_in(directory: pathlib.Path) -> list[int]:
    """The steps that a directory has complete checkpoints of, in increasing order."""
    steps = {name: step_of(name) for name in names_in(directory)}
    return sorted(
        step for name, step in steps.items() if step is not None and is_checkpoint(directory / name)
    )
