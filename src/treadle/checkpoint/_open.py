"""Looking into a checkpoint: leaf by leaf, without the tree that it was."""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from .._custom_types import Door
from .._errors import CheckpointError, LeafNotFoundError
from ._load import open_manifest
from ._manifest import Manifest, Record
from ._mismatch import nearest
from ._reader import LeafReader
from ._storage import Spec, decoded, quoted


class Checkpoint(Mapping[str, Any]):
    """A checkpoint as a mapping from paths to leaves, each read when it is asked for.

    Made by `treadle.checkpoint.open`. Arrays come as NumPy arrays (those of JAX's own dtypes too),
    typed keys as keys, Python numbers as themselves. What is no leaf costs no reading.

    Attributes:
        path: Where it lies.
        metadata: What was kept with it.
        metrics: What `keep_best` judges by.
        static: The static fields that are plain values, printed, by path.
        versions: Of the packages that wrote it.
        nbytes: How many bytes the leaves have on disk.
    """

    def __init__(self, path: pathlib.Path, manifest: Manifest, reader: LeafReader):
        self.path = path
        self.metadata = manifest.metadata
        self.metrics = manifest.metrics
        self.static = manifest.statics
        self.versions = manifest.versions
        self.nbytes = manifest.nbytes
        self._reader = reader
        self._closed = False
        self._records = {record.path: record for record in manifest.records}

    def _record(self, path: Any) -> Record:
        try:
            return self._records[path]
        except KeyError:
            near = nearest(path, self._records) if isinstance(path, str) else []
            hint = f"the nearest are {', '.join(map(quoted, near))}" if near else "see `list(...)`"
            raise LeafNotFoundError(
                f"The checkpoint {str(self.path)!r} has no leaf {path!r} among its "
                f"{len(self._records)}: {hint}."
            ) from None

    def _require_open(self) -> None:
        if self._closed:
            raise CheckpointError(
                f"The checkpoint {str(self.path)!r} is closed, and this reads from its file: do it "
                "inside of the `with` block, or before `close`."
            )

    def __getitem__(self, path: Door[str]) -> Any:
        record = self._record(path)
        self._require_open()
        if record.value is not None:
            return int(record.value, 16)
        stored = self._reader.read(record)
        try:
            return decoded(stored, record.spec)
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"The leaf {quoted(path)} of the checkpoint {str(self.path)!r} cannot be read as "
                f"{record.spec}: {error}. It needs the packages that wrote it: {self.versions}."
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, path: object) -> bool:
        return path in self._records

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self)} leaves, {self.nbytes:,} bytes)"

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def specs(self) -> dict[str, Spec]:
        """Shape, dtype and the like of each leaf, by path."""
        return {path: record.spec for path, record in self._records.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """How many bytes each leaf has on disk, its header included, by path."""
        return {path: record.nbytes for path, record in self._records.items()}

    @property
    def digests(self) -> dict[str, str]:
        """The digest of the bytes that each leaf has on disk, by path.

        Of an integer of more than 64 bits, which is not among them, the number itself, in
        hexadecimal.
        """
        return {path: record.value or record.digest for path, record in self._records.items()}

    def verify(self) -> None:
        """Reads every byte, and checks it against its digest.

        Raises:
            CheckpointError: If one is not what was written, with file and leaf.
        """
        self._require_open()
        for record in self._records.values():
            if record.value is None:
                self._reader.verify(record)

    def close(self) -> None:
        """Closes its file; what needs no reading can still be asked for."""
        self._closed = True
        self._reader.close()


def open(path: str | os.PathLike[str]) -> Checkpoint:  # noqa: A001  (as in `gzip.open`)
    """Opens a checkpoint to look into it; nothing but its manifest is read.

    Args:
        path: The folder that `treadle.save` or a `Checkpointer` wrote.

    Returns:
        A mapping from paths to leaves, to be closed, or used in a `with` statement.

    Raises:
        CheckpointNotFoundError: If there is nothing at `path`.
        CheckpointError: If what is there is not a checkpoint, or damaged.

    Example:
        >>> with treadle.checkpoint.open("runs/digits/checkpoints/step_00001000") as saved:
        ...     weight = saved["model/layers/0/weight"]
    """
    folder, manifest = open_manifest(path)
    return Checkpoint(folder, manifest, LeafReader(folder, manifest))
