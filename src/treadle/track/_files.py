"""Replacing a file in one go."""

import os
import pathlib

from .._durable import sync_folder


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes `text` to `path` so that a reader finds the old file or the new one, whole."""
    # The same name each time: what a killed process left there is written over by the next.
    aside = path.with_name(f"{path.name}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        # Or it might be empty when the power comes back.
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync_folder(path.parent)
