"""Reading `.npz` files, NumPy's archives of arrays; nothing in them is ever unpickled."""

import os
import pathlib
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from .._checks import as_path
from .._custom_types import Door
from .._errors import DataError
from ._files import too_large, unreadable

# What zipfile and NumPy raise for files that are not what was written; an encrypted one is a
# `RuntimeError`.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
)
# The record at the end of a zip archive: its signature, then, behind two numbers of disks and the
# count on this one, the count of members.
_END = struct.Struct("<4s6xH10x")


def npz(path: Door[str | os.PathLike[str]]) -> dict[str, np.ndarray]:
    """The arrays in an `.npz` file, by name.

    Args:
        path: A file that `np.savez` or `np.savez_compressed` wrote.

    Returns:
        Every array of the file. Those that belong together, with a row for each example, are what
        `treadle.data.arrays` takes.

    Raises:
        ArgumentTypeError: `path` is no path.
        DataError: The file is missing, is no `.npz`, is cut off or damaged, or holds Python
            objects, which would have to be unpickled.

    Example:
        >>> data = treadle.data.npz("mnist.npz")
        >>> batches = treadle.data.arrays((data["x_train"], data["y_train"]), 128, key=key)
    """
    where = as_path(path)
    try:
        archive = zipfile.ZipFile(where)
    except OSError as error:
        raise unreadable(where, error) from error
    except _DAMAGED as error:
        if _begins(where, np.lib.format.MAGIC_PREFIX):
            raise DataError(
                f"{where} is one array, not an archive of several: `np.load(path)` reads it."
            ) from error
        raise DataError(
            f"{where} is not an .npz file, or not all of one: it is no zip archive ({error}). "
            "Write it with `np.savez`, or fetch it again."
        ) from error
    with archive:
        _check_count(archive, where)
        found = {each.filename: _member(archive, each, where) for each in archive.infolist()}
    if not found:
        raise DataError(f"{where} holds no arrays: write it with `np.savez(path, x=x, y=y)`.")
    return {name.removesuffix(".npy"): array for name, array in found.items()}


def _begins(path: pathlib.Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _check_count(archive: zipfile.ZipFile, path: pathlib.Path) -> None:
    """Raises where the archive lists fewer members than it says, which zipfile lets pass."""
    with path.open("rb") as file:
        file.seek(-_END.size, os.SEEK_END)
        signature, count = _END.unpack(file.read())[:2]
    # Of more members, and of archives with a comment, the count is elsewhere.
    known = signature == b"PK\x05\x06" and count < 0xFFFF
    listed = len(archive.namelist())
    if known and count != listed:
        raise DataError(
            f"{path} is damaged: it lists {listed} of its {count} arrays. Write or fetch it again."
        )
    if len(set(archive.namelist())) != listed:
        raise DataError(
            f"{path} has several arrays of one name, of which only one could be meant: write it "
            "again with `np.savez`."
        )


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: pathlib.Path) -> np.ndarray:
    name = member.filename
    if not name.endswith(".npy"):
        raise DataError(
            f"{path} holds {name!r}, which is not an array: an .npz file has members that end in "
            "`.npy`, as `np.savez` writes them."
        )
    try:
        with archive.open(member) as file:
            _check_size(file, member)
        with archive.open(member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            # The digest is compared where the member ends.
            extra = file.read(1)
    except OSError as error:
        raise unreadable(path, error) from error
    except MemoryError as error:
        raise too_large(path, error) from error
    except _DAMAGED as error:
        # NumPy's error of too long a header has "allow_pickle" in it too.
        if "Object arrays" in str(error):
            raise DataError(
                f"{path} holds Python objects in {name!r}, which are never unpickled: reading them "
                "could run any code. Save arrays of numbers, `np.savez(path, x=np.asarray(x))`."
            ) from error
        raise _damaged(path, name, error) from error
    if extra:
        raise _damaged(path, name, "there is more behind the array")
    return array


def _check_size(file: Any, member: zipfile.ZipInfo) -> None:
    """Raises where a header promises more than the archive holds, before memory is taken for it."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        # Version 3.0 is for the names of fields that are not in Latin letters.
        return
    shape, _, dtype = read(file)
    promised = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if not dtype.hasobject and promised > member.file_size - file.tell():
        raise ValueError(
            f"its header promises shape {shape} of {dtype}, which is {promised:,} bytes, in a "
            f"member of {member.file_size:,}"
        )


def _damaged(path: pathlib.Path, name: str, why: object) -> DataError:
    return DataError(f"{path} is damaged at {name!r} ({why}): write or fetch it again.")
