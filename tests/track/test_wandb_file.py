"""The files of the client of Weights & Biases: records of any size, at any place of a block."""

import struct
import zlib

import pytest

from treadle.track._wandb_file import records

BLOCK = 32 * 1024


class Raw:
    """A record that is its bytes."""

    FromString = staticmethod(bytes)


def written(contents):
    """As LevelDB writes them: in pieces that end with a block, zeros where no piece fits."""
    data = bytearray(b":W&B" + bytes(3))
    for content in contents:
        first = True
        while first or content:
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                continue
            piece, content = content[: left - 7], content[left - 7 :]
            kind = (1 if first else 4) if not content else (2 if first else 3)
            checksum = zlib.crc32(bytes([kind]) + piece)
            data += struct.pack("<IHB", checksum, len(piece), kind) + piece
            first = False
    return bytes(data)


@pytest.mark.parametrize("left", range(9))
def test_records_at_the_end_of_a_block(left):
    contents = [b"a" * (BLOCK - 7 - 7 - left), b"bb", b"c" * (2 * BLOCK + 5), b"d"]
    data = written(contents)
    found = list(records(data, Raw))
    assert [record.message for record in found] == contents
    assert found[-1].end == len(data)
    for size in (len(data) - 1, found[2].begin + 7, found[2].begin + BLOCK):
        cut = list(records(data[:size], Raw))
        assert [record.message for record in cut] == contents[: 3 if size == len(data) - 1 else 2]
    # What is cut off where a record begins is a whole file.
    assert len(list(records(data[: found[2].begin], Raw))) == 2


@pytest.mark.parametrize("at", [7, 12, 13, 14, 20])
def test_a_record_with_another_checksum_is_the_end(at):
    data = bytearray(written([b"one two three", b"four"]))
    data[at] ^= 1
    assert not list(records(bytes(data), Raw))


@pytest.mark.parametrize("data", [b"", b":W&B", b":W&B" + bytes(3), bytes(100), b"other" * 10])
def test_what_holds_no_records(data):
    assert not list(records(data, Raw))
