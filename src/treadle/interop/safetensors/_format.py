"""The header of a safetensors file: what is in it, and nothing believed before it is checked.

A file is the length of its header (8 bytes, little-endian), the header, which is JSON, and the
bytes of the arrays, without gaps.
"""

import json
import math
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np

from ..._errors import CheckpointError, DamagedCheckpointError

# The names of the format, from the dtype whose arrays come first in a file to the last: so every
# array begins at a multiple of its items' size. The order is that of the package.
DTYPES: dict[str, np.dtype] = {
    "U64": np.dtype("uint64"),
    "I64": np.dtype("int64"),
    "F64": np.dtype("float64"),
    "C64": np.dtype("complex64"),
    "F32": np.dtype("float32"),
    "U32": np.dtype("uint32"),
    "I32": np.dtype("int32"),
    "BF16": np.dtype(jnp.bfloat16),
    "F16": np.dtype("float16"),
    "U16": np.dtype("uint16"),
    "I16": np.dtype("int16"),
    "F8_E5M2FNUZ": np.dtype(jnp.float8_e5m2fnuz),
    "F8_E4M3FNUZ": np.dtype(jnp.float8_e4m3fnuz),
    # Not every version of JAX that is supported has it.
    **({"F8_E8M0": np.dtype(jnp.float8_e8m0fnu)} if hasattr(jnp, "float8_e8m0fnu") else {}),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "I8": np.dtype("int8"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ORDER = {name: at for at, name in enumerate(DTYPES)}
# The format has them, several numbers to a byte, as no array of NumPy's.
_PACKED = ("F4", "F6_E2M3", "F6_E3M2")

METADATA = "__metadata__"
# The package reads no longer ones, and writes none.
LONGEST_HEADER = 100_000_000
_LARGEST = 2**63 - 1
_RANK = 64  # NumPy's.


class Entry(NamedTuple):
    """Where an array lies.

    Attributes:
        dtype: Its name in the format.
        shape: Its shape.
        start: The first of its bytes, counted from the end of the header.
        stop: The first byte behind it.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """All that a file says of itself.

    Attributes:
        entries: By name, in the order of the bytes.
        metadata: Strings by name.
    """

    entries: dict[str, Entry]
    metadata: dict[str, str]


def nbytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    """How many bytes an array takes."""
    return math.prod(shape) * DTYPES[dtype].itemsize


def laid_out(specs: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, Entry]:
    """Where each array goes, in the order in which they are written.

    Args:
        specs: Dtype and shape by name.
    """
    entries, start = {}, 0
    for name in sorted(specs, key=lambda name: (_ORDER[specs[name][0]], name.encode())):
        dtype, shape = specs[name]
        stop = start + nbytes_of(dtype, shape)
        entries[name] = Entry(dtype, shape, start, stop)
        start = stop
    return entries


def composed(header: Header) -> bytes:
    """The first bytes of a file, up to those of the arrays."""
    told: dict[str, Any] = {METADATA: header.metadata} if header.metadata else {}
    for name, entry in header.entries.items():
        told[name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": (entry.start, entry.stop),
        }
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def parsed(text: bytes, nbytes: int, file: str) -> Header:
    """What a header says.

    Args:
        text: The header.
        nbytes: How many bytes follow it.
        file: The file, for messages.

    Raises:
        DamagedCheckpointError: It is no header of such a file.
        CheckpointError: It has arrays that cannot be read here.
    """
    told = _json(text, file)
    metadata = _metadata(told.pop(METADATA, None), file)
    entries = {name: _entry(name, told[name], file) for name in told}
    ordered = dict(sorted(entries.items(), key=lambda item: item[1][2:]))
    _require_covered(ordered, nbytes, file)
    return Header(ordered, metadata)


def damaged(file: str, why: str) -> DamagedCheckpointError:
    """The error of a file that is not what it should be."""
    return DamagedCheckpointError(
        f"{file!r} is no safetensors file, or damaged: {why}. Copy or download it again."
    )


def _json(text: bytes, file: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands in it twice")
        return found

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        told = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise damaged(file, f"its header is not such JSON ({error})") from error
    if not isinstance(told, dict):
        raise damaged(file, f"its header is a JSON {type(told).__name__}, not an object")
    return told


def _metadata(told: Any, file: str) -> dict[str, str]:
    if told is None:
        return {}
    if not isinstance(told, dict) or not all(isinstance(text, str) for text in told.values()):
        raise damaged(file, f"its `{METADATA}` is not an object of strings")
    return told


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number <= _LARGEST


def _entry(name: str, told: Any, file: str) -> Entry:
    if not isinstance(told, dict) or not told.keys() >= {"dtype", "shape", "data_offsets"}:
        raise damaged(file, f"{_short(name)} lacks a dtype, a shape or offsets")
    dtype, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if not isinstance(shape, list) or not all(map(_is_size, shape)) or len(shape) > _RANK:
        raise damaged(file, f"{_short(name)} has the shape {_short(shape)}")
    ordered = isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_size, offsets))
    if not ordered or offsets[0] > offsets[1]:
        raise damaged(file, f"{_short(name)} has the offsets {_short(offsets)}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        if dtype in _PACKED:
            raise CheckpointError(
                f"{file!r} has {_short(name)} of dtype {dtype}, several numbers to a byte, as no "
                "array has them here: convert it to F8_E4M3 or BF16 where it was made."
            )
        raise damaged(file, f"{_short(name)} has the dtype {_short(dtype)}, which there is not")
    entry = Entry(dtype, tuple(shape), *offsets)
    needed = nbytes_of(dtype, entry.shape)
    # Of an array without items the other sizes may be any; their product is an array's limit.
    largest = math.prod(max(size, 1) for size in shape) * DTYPES[dtype].itemsize
    if largest > _LARGEST or needed != entry.stop - entry.start:
        raise damaged(
            file,
            f"{_short(name)} has {entry.stop - entry.start:,} bytes, and {dtype}{_short(shape)} "
            f"takes {_short(needed)}",
        )
    return entry


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _require_covered(ordered: dict[str, Entry], nbytes: int, file: str) -> None:
    """Refuses arrays that overlap, leave gaps, or are not all of the file."""
    before, stop = "", 0
    for name, entry in ordered.items():
        if entry.start < stop:
            raise damaged(file, f"{_short(name)} overlaps {_short(before)}")
        if entry.start > stop:
            raise damaged(file, f"before {_short(name)} there are bytes of no array")
        before, stop = name, entry.stop
    if stop > nbytes:
        raise damaged(file, f"its arrays take {stop:,} bytes, and it has {nbytes:,}: it is cut off")
    if stop < nbytes:
        raise damaged(file, f"{nbytes - stop:,} bytes behind its arrays belong to none")
