"""Reading leaves: no byte is handed out that its digest does not cover."""

import math
import os
import pathlib
import re
from collections.abc import Callable

import numpy as np

from .._errors import CheckpointNotFoundError, DamagedCheckpointError
from ._digest import Digest
from ._manifest import LEAVES, Manifest, Record
from ._regular import open_regular
from ._storage import quoted

# Small enough to be in the processor's cache still when it is digested.
_PIECE = 1 << 20
_ALIGNMENT = 64
# The header of an array that is no structure, and how long it may be at most.
_HEAD = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(?P<dtype>[<>|][a-zA-Z]\d{0,9}(\[\w{1,16}\])?)', "
    rb"'fortran_order': (?P<fortran>True|False), 'shape': \((?P<shape>[\d, ]*)\), \} *\n",
    re.DOTALL,
)
_LONGEST = 10 + (1 << 16)


class LeafReader:
    """The file of leaves of a checkpoint, to be closed.

    Args:
        folder: The checkpoint.
        manifest: Its manifest.

    Raises:
        DamagedCheckpointError: If the file is gone, or longer than it was.
        CheckpointNotFoundError: If the whole checkpoint is gone.
        CheckpointError: If it is no plain file.
    """

    def __init__(self, folder: pathlib.Path, manifest: Manifest):
        self._path = folder / LEAVES
        self._memory = bytearray(_PIECE)
        try:
            self._file = open(open_regular(self._path), "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            if not folder.exists():
                raise CheckpointNotFoundError(
                    f"The checkpoint {str(folder)!r} was removed while it was being read, most "
                    "likely by the training that it is of, which keeps only some: take a newer one."
                ) from None
            raise DamagedCheckpointError(
                f"The checkpoint {str(folder)!r} is damaged: its file {LEAVES} is gone. Go back to "
                "an earlier checkpoint."
            ) from None
        self._length = os.fstat(self._file.fileno()).st_size
        # Of a file that is too short, the leaf is told that is cut off.
        if self._length > manifest.nbytes:
            self.close()
            raise self._longer(manifest)

    def _longer(self, manifest: Manifest) -> DamagedCheckpointError:
        last = f" after the leaf {quoted(manifest.records[-1].path)}" if manifest.records else ""
        return DamagedCheckpointError(
            f"The file {str(self._path)!r} is damaged{last}: it has {self._length} bytes, and "
            f"{manifest.nbytes} were written. Go back to an earlier checkpoint."
        )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def read(self, record: Record) -> np.ndarray:
        """A leaf as it was stored, in memory of its own.

        Raises:
            DamagedCheckpointError: If it is not what was written, with file and leaf.
        """
        self._require_there(record)
        raw = _aligned(record.nbytes)
        view = raw.data
        self._check(record, lambda at: view[at : at + _PIECE])
        try:
            stored = _parse(raw)
            # NumPy's format knows bfloat16 as two raw bytes.
            bfloat16 = record.spec.storage == "bfloat16"
            dtype = np.dtype("V2" if bfloat16 else record.spec.storage)
        except (ValueError, TypeError, OverflowError) as error:
            raise self.damaged(record, f"it is not an array in NumPy's format: {error}") from error
        # The data of keys have an axis more.
        shape = stored.shape[:-1] if record.spec.dtype == "key" else stored.shape
        if stored.dtype != dtype or shape != record.spec.shape:
            raise self.damaged(record, f"the file has {stored.dtype}{list(stored.shape)} there")
        return stored

    def verify(self, record: Record) -> None:
        """Reads every byte of a leaf, without making an array of it.

        Raises:
            DamagedCheckpointError: If they are not those that were written.
        """
        self._require_there(record)
        memory = memoryview(self._memory)
        self._check(record, lambda at: memory[: record.nbytes - at])

    def _require_there(self, record: Record) -> None:
        # What a manifest claims is not allocated before the file is known to have it.
        if record.offset + record.nbytes > self._length:
            raise self.damaged(record, "the file ends in the middle of it")

    def _check(self, record: Record, place: Callable[[int], memoryview]) -> None:
        """Reads a leaf piece by piece, each to the place for what is so far in it."""
        digest, at = Digest(), 0
        try:
            self._file.seek(record.offset)
        except OSError as error:
            raise self.damaged(record, f"the disk does not give it back ({error})") from error
        while at < record.nbytes:
            piece = place(at)
            count = self._read_into(record, piece)
            digest.update(piece[:count])
            at += count
        if str(digest) != record.digest:
            raise self.damaged(record, "its bytes are not those that were written")

    def _read_into(self, record: Record, piece: memoryview) -> int:
        try:
            count = self._file.readinto(piece)
        except OSError as error:
            raise self.damaged(record, f"the disk does not give it back ({error})") from error
        if not count:
            raise self.damaged(record, "the file ends in the middle of it")
        return count

    def damaged(self, record: Record, how: str) -> DamagedCheckpointError:
        """The error of a leaf that is not what was written."""
        return DamagedCheckpointError(
            f"The file {str(self._path)!r} is damaged at the leaf {quoted(record.path)}: {how}. "
            "Go back to an earlier checkpoint."
        )


def _aligned(nbytes: int) -> np.ndarray:
    """Memory that JAX takes over on CPU as it is, without a copy: aligned as its own is.

    NumPy's headers keep the alignment of what follows them.
    """
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + nbytes]


def _parse(raw: np.ndarray) -> np.ndarray:
    """An array in NumPy's format, without a copy and without ever unpickling.

    NumPy's own reader evaluates the header as Python, of whatever kind and length; this one takes
    what `save` writes.

    Raises:
        ValueError, TypeError, OverflowError: If it is not that.
    """
    head = _HEAD.match(raw[:_LONGEST].tobytes())
    if head is None or head.end() != 10 + int.from_bytes(raw[8:10].tobytes(), "little"):
        raise ValueError("its header is another one")
    dtype = np.dtype(head["dtype"].decode())
    if dtype.hasobject:
        raise ValueError(f"dtype {dtype} is pickled")
    shape = tuple(int(size) for size in head["shape"].split(b",") if size.strip())
    data = raw[head.end() :]
    if math.prod(shape) * dtype.itemsize != data.size:
        raise ValueError(f"{data.size} bytes are not those of {dtype}{list(shape)}")
    if not data.size:
        return np.empty(shape, dtype)
    flat = data.view(dtype)
    return flat.reshape(shape[::-1]).T if head["fortran"] == b"True" else flat.reshape(shape)
