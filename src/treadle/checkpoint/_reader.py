"""Reading leaves: no byte is handed out that its digest does not cover."""

import io
import os
import pathlib
from collections.abc import Callable
from types import TracebackType

import numpy as np

from .._errors import CheckpointError
from ._digest import Digest
from ._manifest import LEAVES, Manifest, Record
from ._regular import open_regular
from ._storage import quoted

# Small enough to be in the processor's cache still when it is digested.
_PIECE = 1 << 20
_ALIGNMENT = 64


class LeafReader:
    """The file of leaves of a checkpoint, to be closed.

    Args:
        folder: The checkpoint.
        manifest: Its manifest.

    Raises:
        CheckpointError: If the file is gone, no plain file, or of another length.
    """

    def __init__(self, folder: pathlib.Path, manifest: Manifest):
        self._path = folder / LEAVES
        self._memory = np.empty(0, np.uint8)
        try:
            self._file = open(open_regular(self._path), "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            raise CheckpointError(
                f"The checkpoint {str(folder)!r} is damaged: its file {LEAVES} is gone. Go back to "
                "an earlier checkpoint."
            ) from None
        self._length = os.fstat(self._file.fileno()).st_size
        # Of a file that is too short, the leaf is told that is cut off.
        if self._length > manifest.nbytes:
            self.close()
            raise self._longer(manifest)

    def _longer(self, manifest: Manifest) -> CheckpointError:
        last = f" after the leaf {quoted(manifest.records[-1].path)}" if manifest.records else ""
        return CheckpointError(
            f"The file {str(self._path)!r} is damaged{last}: it has {self._length} bytes, and "
            f"{manifest.nbytes} were written. Go back to an earlier checkpoint."
        )

    def __enter__(self) -> "LeafReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def read(self, record: Record) -> np.ndarray:
        """A leaf as it was stored, in memory of its own.

        Raises:
            CheckpointError: If it is not what was written, with file and leaf.
        """
        raw = self._raw(record, _aligned)
        try:
            stored = _parse(raw)
            # NumPy's format knows bfloat16 as two raw bytes.
            bfloat16 = record.spec.storage == "bfloat16"
            dtype = np.dtype("V2" if bfloat16 else record.spec.storage)
        except (ValueError, TypeError) as error:
            raise self._damaged(record, f"it is not an array in NumPy's format: {error}") from error
        # The data of keys have an axis more.
        shape = stored.shape[:-1] if record.spec.dtype == "key" else stored.shape
        if stored.dtype != dtype or shape != record.spec.shape:
            raise self._damaged(record, f"the file has {stored.dtype}{list(stored.shape)} there")
        return stored

    def verify(self, record: Record) -> None:
        """Reads every byte of a leaf, without making an array of it.

        Raises:
            CheckpointError: If they are not those that were written.
        """
        self._raw(record, self._again)

    def _again(self, nbytes: int) -> np.ndarray:
        """Memory that is used for all leaves."""
        if self._memory.size < nbytes:
            self._memory = np.empty(nbytes, np.uint8)
        return self._memory[:nbytes]

    def _raw(self, record: Record, memory: Callable[[int], np.ndarray]) -> np.ndarray:
        # What a manifest claims is not allocated before the file is known to have it.
        if record.offset + record.nbytes > self._length:
            raise self._damaged(record, "the file ends in the middle of it")
        raw = memory(record.nbytes)
        view, digest = raw.data, Digest()
        self._file.seek(record.offset)
        at = 0
        while at < record.nbytes:
            count = self._read_into(record, view[at : at + _PIECE])
            digest.update(view[at : at + count])
            at += count
        if str(digest) != record.digest:
            raise self._damaged(record, "its bytes are not those that were written")
        return raw

    def _read_into(self, record: Record, piece: memoryview) -> int:
        try:
            count = self._file.readinto(piece)
        except OSError as error:
            raise self._damaged(record, f"the disk does not give it back ({error})") from error
        if not count:
            raise self._damaged(record, "the file ends in the middle of it")
        return count

    def _damaged(self, record: Record, how: str) -> CheckpointError:
        return CheckpointError(
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
    """An array in NumPy's format, without a copy and without ever unpickling."""
    head = io.BytesIO(raw[: 1 << 16].tobytes())
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(head)
    if dtype.hasobject:
        raise ValueError(f"dtype {dtype} is pickled")
    flat = raw[head.tell() :].view(dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
