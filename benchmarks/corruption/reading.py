"""The ways to read all of a checkpoint, and what each says to it."""

import pathlib
from collections.abc import Callable
from typing import Any

from treadle import checkpoint


def _verify(folder: pathlib.Path, like: Any) -> None:
    with checkpoint.open(folder) as opened:
        opened.verify()


def _each(folder: pathlib.Path, like: Any) -> None:
    with checkpoint.open(folder) as opened:
        for path in opened:
            opened[path]


READERS: dict[str, Callable[[pathlib.Path, Any], Any]] = {
    "load": checkpoint.load,
    "verify": _verify,
    "each leaf": _each,
}
"""Functions of a folder and a `like`, by name."""


def refusals(folder: pathlib.Path, like: Any, readers: Any = READERS) -> dict[str, Any]:
    """What each way of reading raised; None where it raised nothing."""
    return {name: _refusal(READERS[name], folder, like) for name in readers}


def _refusal(read: Callable[..., Any], folder: pathlib.Path, like: Any) -> BaseException | None:
    try:
        read(folder, like)
    except Exception as error:
        return error
    return None


def warm_up(folder: pathlib.Path, like: Any) -> None:
    """Reads a good checkpoint, also as what it is not: what that imports is there from then on."""
    refusals(folder, like)
    refusals(folder, [like], ["load"])
