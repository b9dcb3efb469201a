"""Reading IDX files, the format that MNIST and its kin are published in.

A file is two zero bytes, a byte for the type of the numbers, a byte for the number of axes, the
size of each axis as four bytes, and the numbers; everything big-endian.
"""

import gzip
import io
import math
import os
import pathlib
import zlib

import numpy as np

from .._checks import as_path
from .._custom_types import Door
from .._errors import DataError
from ._files import unreadable

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20


def idx(path: Door[str | os.PathLike[str]]) -> np.ndarray:
    """The array in an IDX file, gzipped or not, in the machine's byte order.

    Args:
        path: A file such as `train-images-idx3-ubyte.gz`.

    Returns:
        The array, of the type that the file has: MNIST's images are bytes from 0 to 255.

    Raises:
        ArgumentTypeError: `path` is no path.
        DataError: The file is missing, is no IDX file, or holds fewer or more numbers than its
            header says.

    Example:
        >>> images = treadle.data.idx("mnist/train-images-idx3-ubyte.gz")
        >>> labels = treadle.data.idx("mnist/train-labels-idx1-ubyte.gz")
        >>> batches = treadle.data.arrays((images, labels), 128, key=key)
    """
    where = as_path(path)
    try:
        with where.open("rb") as raw:
            zipped = raw.read(2) == _GZIP
            raw.seek(0)
            if not zipped:
                return _parse(raw, where)
            with gzip.GzipFile(fileobj=raw) as unpacked:
                return _parse(unpacked, where)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{where} is a damaged gzip file ({error}): it was probably not downloaded to the end. "
            "Fetch it again."
        ) from error
    except OSError as error:
        raise unreadable(where, error) from error


def _parse(file: io.BufferedIOBase, path: pathlib.Path) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\x00\x00" or magic[2] not in _DTYPES or magic[3] == 0:
        raise DataError(
            f"{path} is not an IDX file: it starts with the bytes {magic.hex(' ') or '(none)'}, "
            "where `00 00`, a type (08 to 0e) and a number of axes are expected, such as "
            "`00 00 08 03` for images of bytes."
        )
    dtype = np.dtype(_DTYPES[magic[2]])
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path} ends within its header of {magic[3]} axes. Fetch it again.")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    expected = math.prod(shape) * dtype.itemsize
    data = _up_to(file, expected + 1)
    if len(data) != expected:
        held = f"{len(data):,}" if len(data) < expected else "more"
        raise DataError(
            f"{path} has a header for shape {shape}, which is {expected:,} bytes, but holds "
            f"{held}: it is cut off or damaged. Fetch it again."
        )
    try:
        array = np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:
        raise DataError(
            f"{path} has a header for shape {shape}, which no array can have ({error}): it is "
            "damaged. Fetch it again."
        ) from error
    return array.astype(dtype.newbyteorder("="))


def _up_to(file: io.BufferedIOBase, count: int) -> bytearray:
    """At most that many bytes: not all that a file unpacks to, nor memory for what is not there."""
    data = bytearray()
    while len(data) < count and (chunk := file.read(min(_CHUNK, count - len(data)))):
        data += chunk
    return data
