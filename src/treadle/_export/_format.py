"""The file: what `jax.export` writes, and behind it what treadle knows of it, with a digest.

`jax.export.deserialize` reads from the front and does not mind what follows, so it reads the file
as it is. Behind the program there is JSON, and 36 bytes: the length of the JSON and the version
(little-endian, 8 and 4 bytes), 8 bytes of magic, and 16 bytes of XXH3-128 over everything before.
"""

import json
import struct
from typing import Any, NamedTuple

import xxhash

from .._errors import ExportError

VERSION = 1

_MAGIC = b"treadle\n"
_TAIL = struct.Struct("<QI8s")
_DIGEST = 16


class Content(NamedTuple):
    """What is in a file.

    Attributes:
        program: As `jax.export` serialised it.
        told: What treadle wrote down beside it.
    """

    program: bytes
    told: dict[str, Any]


def packed(content: Content) -> bytes:
    """The bytes of a file."""
    told = json.dumps(content.told, sort_keys=True).encode()
    front = content.program + told + _TAIL.pack(len(told), VERSION, _MAGIC)
    return front + xxhash.xxh3_128_digest(front)


def unpacked(data: bytes, source: str) -> Content:
    """What is in the bytes of a file.

    Args:
        data: The bytes.
        source: Where they are from, for messages.

    Raises:
        ExportError: They are not what `treadle.export` gave, or of a newer version.
    """
    front, digest = data[:-_DIGEST], data[-_DIGEST:]
    if len(front) < _TAIL.size or not front.endswith(_MAGIC):
        raise ExportError(
            f"{source} was not written by `treadle.export`, or its end is missing: it has "
            f"{len(data):,} bytes and does not end as such a file does. (What `jax.export` wrote "
            f"by itself, `jax.export.deserialize` reads.)"
        )
    if xxhash.xxh3_128_digest(front) != digest:
        raise ExportError(
            f"{source} is damaged: its bytes do not have the digest that was written with them. "
            f"Export the model again, or copy the file again."
        )
    length, version, _ = _TAIL.unpack(front[-_TAIL.size :])
    if version != VERSION:
        raise ExportError(
            f"{source} has version {version} of the format, and this treadle reads {VERSION}: "
            f"`pip install -U treadle`. (The program in it is `jax.export`'s: "
            f"`jax.export.deserialize` may read it.)"
        )
    end = len(front) - _TAIL.size
    # The digest tells of accidents; who writes another file on purpose can make one for it.
    if length > end:
        raise _strange(source, f"{length:,} bytes of it are promised, and there are {end:,}")
    try:
        told = json.loads(front[end - length : end])
    except (ValueError, RecursionError) as error:
        raise _strange(source, error) from error
    if not _is_told(told):
        raise _strange(source, f"it is {told!r:.200}")
    return Content(front[: end - length], told)


def _is_told(told: Any) -> bool:
    if not isinstance(told, dict) or not isinstance(told.get("versions"), dict):
        return False
    words = told.get("name"), told["versions"].get("jax")
    return all(isinstance(word, str) for word in words) and type(told.get("batch")) in (str, int)


def _strange(source: str, why: object) -> ExportError:
    return ExportError(
        f"{source} was not written by `treadle.export`: what it says of its program is not what "
        f"`export` writes down ({why})."
    )
