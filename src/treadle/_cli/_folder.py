"""The demo's run folder: whose run is in it, and how it is emptied."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from .._errors import ArgumentValueError

_SETTINGS = "demo.json"
_FILES = (
    "metrics.jsonl",
    "environment.json",
    "curves.png",
    "predictions.png",
    _SETTINGS,  # Last: a folder that was not emptied to the end is still known as one of ours.
)
_FOLDERS = ("checkpoints",)
_WORDS = {
    "model": "the model {}",
    "data": "images from {}",
    "digest": "images of checksum {}",
    "seed": "seed {}",
    "schedule_steps": "a learning rate that falls over {} steps",
}
# What differs only because something else does: another seed holds other images out, and each model
# has its own number of steps.
_FOLLOWS = {"digest": ("data", "seed"), "schedule_steps": ("model",)}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes two runs the same run.

    Attributes:
        model: The model's name on the command line.
        data: Where the images come from.
        digest: Of the images and labels themselves.
        seed: Of everything random.
        schedule_steps: Over how many steps the learning rate falls.
    """

    model: str
    data: str
    digest: str
    seed: int
    schedule_steps: int


def claim(folder: Path, settings: Settings) -> None:
    """Makes the folder that of a run with these settings, or continues one that is.

    Raises:
        ArgumentValueError: It holds a run with other settings, or something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ArgumentValueError(f"`--run` (={folder}) is a file, not a folder.")
    held = _held(folder)
    if held is None:
        if (folder / "checkpoints").exists() or (folder / "metrics.jsonl").exists():
            raise ArgumentValueError(
                f"`--run` (={folder}) holds a run that is not the demo's: choose another folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(settings), indent=2)
        (folder / _SETTINGS).write_text(f"{text}\n", encoding="utf-8")
        return
    asked = dataclasses.asdict(settings)
    differing = [name for name in asked if held.get(name) != asked[name]]
    for follower, leaders in _FOLLOWS.items():
        if follower in differing and any(leader in differing for leader in leaders):
            differing.remove(follower)
    if differing:
        told = " and ".join(_WORDS[name].format(held.get(name)) for name in differing)
        now = " and ".join(_WORDS[name].format(asked[name]) for name in differing)
        raise ArgumentValueError(
            f"`--run` (={folder}) holds a run with {told}, and this one would have {now}. Choose "
            "another folder with `--run`, or start over with `--fresh`."
        )


def clear(folder: Path) -> None:
    """Removes the demo's run from a folder, and the folder if nothing else is in it.

    Raises:
        ArgumentValueError: There is something in the folder, but no run of the demo's.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if _held(folder) is None:
        raise ArgumentValueError(
            f"`--fresh` removes a run of the demo's, but `--run` (={folder}) holds none (there is "
            f"no {_SETTINGS} in it): nothing was removed. Choose another folder."
        )
    for name in _FOLDERS:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _held(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder, or `None` where there is none."""
    file = folder / _SETTINGS
    if not file.is_file():
        return None
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    is_ours = isinstance(held, dict) and {"data", "seed"} <= held.keys()
    # Runs from before there was a choice are of the perceptron.
    return {"model": "mlp"} | held if is_ours else None
