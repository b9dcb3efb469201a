"""Replacing a file in one go."""

import os
import pathlib


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes `text` to `path` so that a reader finds the old file or the new one, whole."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
