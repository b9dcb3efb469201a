"""Reading IDX files, the format that MNIST and its kin are published in.

A file is two zero bytes, a byte for the type of the numbers, a byte for the number of axes, the
size of each axis as four bytes, and the numbers; everything big-endian.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from .._errors import DataError

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file, gzipped or not, in the machine's byte order.

    Raises:
        DataError: The file is missing, is no IDX file, or holds fewer or more numbers than its
            header says.
    """
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is a damaged gzip file ({error}): it was probably not downloaded to the end. "
            "Fetch it again."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    return _parse(data, path)


def _parse(data: bytes, path: Path) -> np.ndarray:
    magic = data[:4]
    if len(magic) < 4 or magic[:2] != b"\x00\x00" or magic[2] not in _DTYPES or magic[3] == 0:
        raise DataError(
            f"{path} is not an IDX file: it starts with the bytes {magic.hex(' ') or '(none)'}, "
            "where `00 00`, a type (08 to 0e) and a number of axes are expected, such as "
            "`00 00 08 03` for images of bytes."
        )
    dtype, begin = np.dtype(_DTYPES[magic[2]]), 4 + 4 * magic[3]
    if len(data) < begin:
        raise DataError(f"{path} ends within its header of {magic[3]} axes. Fetch it again.")
    shape = tuple(int(size) for size in np.frombuffer(data[4:begin], ">u4"))
    expected = math.prod(shape) * dtype.itemsize
    if len(data) - begin != expected:
        raise DataError(
            f"{path} has a header for shape {shape}, which is {expected:,} bytes, but holds "
            f"{len(data) - begin:,}: it is cut off or damaged. Fetch it again."
        )
    return np.frombuffer(data, dtype, offset=begin).reshape(shape).astype(dtype.newbyteorder("="))
