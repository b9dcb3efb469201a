"""Labelled images for the demo: scikit-learn's digits, IDX files, or an `.npz`."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from .._errors import DataError
from ..data import idx
from ._extra import require_demo
from ._prepare import Images, prepare

_IDX_NAMES = {
    "x_train": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "y_train": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "x_test": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "y_test": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}
_NPZ_NAMES = {
    "x_train": ("x_train", "x", "images"),
    "y_train": ("y_train", "y", "labels"),
    "x_test": ("x_test",),
    "y_test": ("y_test",),
}
_WANTED = (
    "Give a folder of IDX files (train-images-idx3-ubyte, train-labels-idx1-ubyte, .gz or not), "
    "or an .npz with x_train and y_train."
)


def load_images(data: Path | None, seed: int) -> Images:
    """Reads what the demo trains on.

    Args:
        data: A folder of IDX files, an `.npz` file, or `None` for scikit-learn's digits.
        seed: Says which fifth is held out, where the data has no test set of its own.

    Raises:
        DataError: Files are missing, damaged, or do not fit together.
        MissingExtraError: scikit-learn is wanted and not installed.
    """
    if data is None:
        return prepare("scikit-learn's digits", _digits(), seed)
    if data.is_dir():
        return prepare(str(data), _idx_folder(data), seed)
    if not data.exists():
        raise DataError(f"`--data` (={data}) does not exist. {_WANTED}")
    if data.suffix != ".npz":
        raise DataError(f"`--data` (={data}) is neither a folder nor an .npz file. {_WANTED}")
    return prepare(str(data), _npz(data), seed)


def _digits() -> dict[str, np.ndarray]:
    datasets = require_demo("sklearn.datasets")
    digits = datasets.load_digits()
    return {"x_train": digits.images, "y_train": digits.target}


def _idx_folder(folder: Path) -> dict[str, np.ndarray]:
    found = {key: _first_file(folder, names) for key, names in _IDX_NAMES.items()}
    for key in ("x_train", "y_train"):
        if found[key] is None:
            held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise DataError(
                f"`--data` (={folder}) has no {_IDX_NAMES[key][0]} (nor with .gz); it holds {held}."
            )
    return {key: idx(path) for key, path in found.items() if path is not None}


def _first_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    candidates = [folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _npz(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise DataError(f"`--data` (={path}) is not an .npz file (a zip archive of arrays).")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"`--data` (={path}) cannot be read as an .npz file: {error}.") from error
    found = {
        key: next((arrays[name] for name in names if name in arrays), None)
        for key, names in _NPZ_NAMES.items()
    }
    for key in ("x_train", "y_train"):
        if found[key] is None:
            wanted = " or ".join(_NPZ_NAMES[key])
            held = ", ".join(arrays) or "nothing"
            raise DataError(f"`--data` (={path}) has no {wanted}; it holds {held}.")
    return {key: array for key, array in found.items() if array is not None}
