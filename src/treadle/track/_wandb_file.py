"""The files in which the client of Weights & Biases keeps a run until it is uploaded.

A file is a log as LevelDB writes it, 7 bytes of its own in front: blocks of 32 KiB, in them pieces
of records. A piece has 7 bytes in front: a checksum (4 bytes, CRC-32 of its kind and its content),
its length (2) and its kind (1 is a whole record, 2 the first piece of one, 3 one in the middle, 4
the last), little-endian. A record is a message `wandb_internal.Record`.
"""

import pathlib
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ._files import replace_bytes

_MAGIC = b":W&B"
_FRONT = 7
_BLOCK = 32 * 1024
_PIECE = struct.Struct("<IHB")
_FIRST, _LAST = (1, 2), (1, 4)


class Record(NamedTuple):
    """A record of a file.

    Attributes:
        begin: Where it begins.
        end: Where it ends.
        message: A `wandb_internal.Record`.
    """

    begin: int
    end: int
    message: Any


def records(data: bytes, kind: Any) -> Iterator[Record]:
    """The records of a file, up to one that was cut off or is damaged.

    Args:
        data: Of the file.
        kind: `wandb.proto.wandb_internal_pb2.Record`.
    """
    if not data.startswith(_MAGIC):
        return
    at, begin, parts = _FRONT, _FRONT, []
    while True:
        if _BLOCK - at % _BLOCK < _PIECE.size:
            at += _BLOCK - at % _BLOCK
        if at + _PIECE.size > len(data):
            return
        checksum, length, piece = _PIECE.unpack_from(data, at)
        content = data[at + _PIECE.size : at + _PIECE.size + length]
        if zlib.crc32(content, zlib.crc32(bytes([piece]))) != checksum:
            return
        if piece in _FIRST:
            begin, parts = at, []
        at += _PIECE.size + length
        parts.append(content)
        if piece in _LAST:
            yield Record(begin, at, kind.FromString(b"".join(parts)))


class Last(NamedTuple):
    """What there is of the last step that has figures.

    Attributes:
        step: The step; -1 where there is none.
        names: The names that have one.
    """

    step: int
    names: frozenset[str]


def last_of(paths: Sequence[pathlib.Path], kind: Any) -> Last:
    """The last step that files have figures of."""
    last = Last(-1, frozenset())
    for path in paths:
        for *_, message in records(path.read_bytes(), kind):
            if message.WhichOneof("record_type") != "history":
                continue
            step = message.history.step.num
            names = frozenset(item.key or item.nested_key[0] for item in message.history.item)
            if step > last.step:
                last = Last(step, names)
            elif step == last.step:
                last = Last(step, last.names | names)
    return last


def cut_behind(path: pathlib.Path, step: int, kind: Any) -> None:
    """Ends a file where the figures of a later step than `step` begin, or where it is damaged."""
    data = path.read_bytes()
    end = _FRONT
    for record in records(data, kind):
        message = record.message
        if message.WhichOneof("record_type") == "history" and message.history.step.num > step:
            break
        end = record.end
    if end < len(data):
        # Another file takes its place: the client of a process that died may still write.
        replace_bytes(path, data[:end])


def wait_for_end(path: pathlib.Path, kind: Any, *, seconds: float) -> None:
    """Returns when the client has written the last record of a run, or after some time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        *_, last = [None, *records(path.read_bytes(), kind)]
        if last is not None and last.message.WhichOneof("record_type") == "exit":
            return
        time.sleep(0.002)
