"""The run folder: metrics, checkpoints and what it was run with, in one place."""

import datetime
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import sys
from typing import Any

import jax

from .._durable import make_folder
from .._errors import ArgumentValueError
from ..checkpoint import Checkpointer
from ..track import JSONL
from ..track._files import replace_text

_log = logging.getLogger("treadle")


class RunFolder:
    """`metrics.jsonl`, `checkpoints/` and `environment.json` under one path.

    Args:
        path: The folder, which is made when needed.

        checkpointer: Keeps the checkpoints; without it one of our own does, in `checkpoints/`.

    Raises:
        ArgumentValueError: If it is a file.
    """

    def __init__(self, path: str | os.PathLike[str], checkpointer: Checkpointer | None = None):
        self.path = pathlib.Path(path).absolute()
        if self.path.exists() and not self.path.is_dir():
            raise ArgumentValueError(
                f"`run` (={str(path)!r}) is a file: give a folder, which is made when needed."
            )
        make_folder(self.path)
        self.checkpointer = checkpointer or Checkpointer(self.path / "checkpoints")
        self.metrics = JSONL(self.path / "metrics.jsonl")

    def note_start(self, step: int) -> None:
        """Adds this start to `environment.json`: when, from which step, with which versions."""
        file = self.path / "environment.json"
        starts = _earlier_starts(file)
        starts.append({"step": step, **_environment()})
        replace_text(file, json.dumps({"starts": starts}, indent=2) + "\n")


def _earlier_starts(file: pathlib.Path) -> list[Any]:
    """What earlier starts wrote; a damaged file is put aside, for it must not stop a training."""
    if not file.exists():
        return []
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["starts"])
    except (ValueError, KeyError, TypeError):
        aside = file.with_suffix(".damaged")
        os.replace(file, aside)
        _log.warning("%s was damaged: it is now %s, and a new one begins", file, aside.name)
        return []


def _environment() -> dict[str, Any]:
    packages = ("treadle", "jax", "jaxlib", "equinox", "optax", "numpy")
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [str(device) for device in jax.devices()],
        "versions": {name: _version(name) for name in packages},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # Run from a checkout, not installed.
        return None
