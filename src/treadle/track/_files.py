"""Files that are replaced in one go, or get more at their end in one go."""

import os
import pathlib
from typing import Any

from .._custom_types import Door
from .._durable import sync_folder
from .._errors import ArgumentTypeError, ArgumentValueError, DataError


def replace_text(path: pathlib.Path, text: str, *, aside: pathlib.Path | None = None) -> None:
    """Writes `text` to `path` so that a reader finds the old file or the new one, whole."""
    replace_bytes(path, text.encode(), aside=aside)


def replace_bytes(path: pathlib.Path, data: bytes, *, aside: pathlib.Path | None = None) -> None:
    """Writes `data` to `path` so that a reader finds the old file or the new one, whole.

    Args:
        path: The file.
        data: What it holds then.
        aside: Where it is written first, on the same file system; without it, beside the file.
    """
    # The same name each time: what a killed process left there is written over by the next.
    aside = path.with_name(f"{path.name}.tmp") if aside is None else aside
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        # Or it might be empty when the power comes back.
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync_folder(path.parent)


def append(file: Any, data: bytes, *, sync: bool = False) -> None:
    """Writes `data` behind a file, all of it or nothing: a full disk leaves no half of a row.

    Args:
        file: Opened for appending, unbuffered.
        data: What is to be written.
        sync: Whether it is on the disk when this returns.
    """
    end = file.seek(0, os.SEEK_END)
    try:
        while data:
            data = data[file.write(data) :]
        if sync:
            os.fsync(file.fileno())
    except BaseException:
        file.truncate(end)
        raise


def local_file(path: Door[str | os.PathLike[str]]) -> pathlib.Path:
    """The file that `path` names; the process may go elsewhere before it is written.

    Raises:
        ArgumentTypeError: It is no path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError(f"`path` (={path!r}) must be the path of a file.")
    return pathlib.Path(path).absolute()


def step_of(row: Any, path: pathlib.Path) -> int:
    """The step of a row that a file has.

    Raises:
        DataError: There is none: the file is of something else.
    """
    try:
        return int(row["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{str(path)!r} has a row without a step, {row!r:.100}: it is of something else than a "
            "tracker, and stays as it is. Name another file, or move that one away."
        ) from error


def local_folder(name: str, folder: Door[str | os.PathLike[str]]) -> pathlib.Path:
    """The folder that an argument names; the process may go elsewhere before it is used.

    Raises:
        ArgumentTypeError, ArgumentValueError: It is no path, a URL, or there is a file.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise ArgumentTypeError(f"`{name}` (={folder!r}) must be the path of a folder.")
    if "://" in os.fspath(folder):
        raise ArgumentValueError(
            f"`{name}` (={folder!r}) is a URL: give a folder of this machine, and copy it there."
        )
    path = pathlib.Path(folder).absolute()
    if path.exists() and not path.is_dir():
        raise ArgumentValueError(
            f"`{name}` (={str(folder)!r}) is a file: give a folder, which is made when needed."
        )
    return path
