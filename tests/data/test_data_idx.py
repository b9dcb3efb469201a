import gzip

import numpy as np
import pytest

from treadle._errors import DataError
from treadle.data import idx

BYTES = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])
ZIPPED = gzip.compress(BYTES, mtime=0)  # The time would change the tests' names.


def write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reads_bytes(tmp_path, pack):
    array = idx(write(tmp_path / "file", pack(BYTES)))
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, [[1, 2, 3], [4, 5, 255]])


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")],
)
def test_reads_every_type_of_the_format(tmp_path, code, dtype):
    numbers = np.array([1, 0, 100], dtype)
    header = bytes([0, 0, code, 1, 0, 0, 0, 3])
    array = idx(write(tmp_path / "file", header + numbers.astype(f">{dtype}").tobytes()))
    assert array.dtype == numbers.dtype
    np.testing.assert_array_equal(array, numbers)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is not an IDX file: it starts with the bytes \(none\)"),
        (b"\x89PNG\r\n", "is not an IDX file: it starts with the bytes 89 50 4e 47"),
        (b"\x00\x00\x07\x01\x00\x00\x00\x00", "is not an IDX file: .* 00 00 07 01"),
        (BYTES[:9], r"ends within its header of 2 axes"),
        (BYTES[:-1], r"has a header for shape \(2, 3\), which is 6 bytes, but holds 5: it is cut"),
        (BYTES + b"\x00", r"which is 6 bytes, but holds more"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "but holds 0"),
        (b"\x00\x00\x08\x5a" + b"\x00\x00\x00\x01" * 90 + b"x", "no array can have"),
        (b"\x00\x00\x08\x04" + bytes(4) + b"\xff" * 12, "no array can have"),
        (ZIPPED[:-9], "is a damaged gzip file .* Fetch it again"),
        (
            ZIPPED[:-8] + bytes(8),
            r"is a damaged gzip file \(CRC check failed",
        ),
        (b"\x1f\x8b" + b"rubbish.", "is a damaged gzip file"),
    ],
)
def test_says_what_is_wrong_with_a_file(tmp_path, data, message):
    path = write(tmp_path / "train-images-idx3-ubyte", data)
    with pytest.raises(DataError, match=message) as caught:
        idx(path)
    assert str(caught.value).startswith(str(path))


def test_says_that_a_file_is_missing(tmp_path):
    with pytest.raises(DataError, match="nothing-here cannot be read: No such file"):
        idx(tmp_path / "nothing-here")
