"""Names that last: a folder is written to the disk by itself, as its files are."""

import errno
import os
import pathlib


def sync_folder(folder: pathlib.Path) -> None:
    """Makes the names in a folder last, where the system can."""
    if os.name == "nt":  # Folders cannot be opened there.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # File systems that cannot sync folders say so.
            raise
    finally:
        os.close(descriptor)


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder and its parents, where they are not there; their names last."""
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        missing.append(folder)
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)
