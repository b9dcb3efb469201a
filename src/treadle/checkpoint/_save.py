"""Saving: the leaves through Equinox, the manifest beside them, and all of it at once or not."""

import dataclasses
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import equinox as eqx
from jaxtyping import PyTree

from .._custom_types import Door
from .._errors import CheckpointError
from ..tree._paths import flatten_with_paths
from ._folders import Aside, clean, put_in_place, sync_folder, write_synced
from ._json import checked_metadata, checked_metrics
from ._manifest import LEAVES, MANIFEST, Manifest, Record, write_manifest
from ._storage import Spec, check_saveable, spec_of, to_storage


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A leaf on its way to disk; to Equinox, a leaf of a type of our own."""

    path: str
    leaf: Any
    spec: Spec


class _Sink:
    """A file that knows where it is, and the digest of what was written since `restart`."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.offset = 0
        self.restart()

    def restart(self) -> None:
        self.start, self._crc = self.offset, 0

    def write(self, data: Any) -> int:
        self.offset += len(data)
        self._crc = zlib.crc32(data, self._crc)
        return self._file.write(data)

    @property
    def digest(self) -> str:
        return crc32(self._crc)


def crc32(checksum: int) -> str:
    """A digest as the manifest has it, after the name of its algorithm."""
    # It finds every flipped byte, at 7 GB/s where SHA-256 made 2 (measured on the same core).
    return f"crc32:{checksum:08x}"


def _entries(tree: PyTree) -> list[_Entry]:
    """What there is to save, in the order of the leaves."""
    named, _ = flatten_with_paths(tree)
    entries = []
    for path, leaf in named:
        spec = spec_of(path, leaf)
        if spec is not None:
            check_saveable(path, leaf)
            entries.append(_Entry(path, leaf, spec))
    return entries


def _write_leaves(path: pathlib.Path, entries: list[_Entry]) -> list[Record]:
    records = []

    def write_one(sink: _Sink, entry: _Entry) -> None:
        sink.restart()
        value = None
        if entry.spec.storage is None:
            value = hex(entry.leaf)  # Python refuses to write long ones in decimal.
        else:
            # One leaf at a time comes to the host.
            eqx.default_serialise_filter_spec(sink, to_storage(entry.leaf, entry.spec))
        nbytes = sink.offset - sink.start
        records.append(Record(entry.path, entry.spec, sink.start, nbytes, sink.digest, value))

    with open(path, "wb") as file:
        eqx.tree_serialise_leaves(_Sink(file), entries, filter_spec=write_one)
        file.flush()
        os.fsync(file.fileno())
    return records


def is_checkpoint(path: pathlib.Path) -> bool:
    """Whether a checkpoint lies at `path`, complete as all of them are."""
    return (path / MANIFEST).is_file()


def _check_target(path: pathlib.Path, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not is_checkpoint(path):
        raise CheckpointError(
            f"`path` (={str(path)!r}) exists and is not a checkpoint, so it is not overwritten: "
            "choose another, or move it away."
        )
    if not overwrite:
        raise CheckpointError(
            f"`path` (={str(path)!r}) exists already: choose another, or say `overwrite=True` to "
            "put the new checkpoint in its place."
        )


@contextmanager
def _telling(path: pathlib.Path) -> Iterator[None]:
    """Turns what the system refuses into a `CheckpointError`."""
    try:
        yield
    except Exception as error:
        # Equinox wraps what went wrong in writing a leaf, once for each level.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise CheckpointError(
            f"The checkpoint `path` (={str(path)!r}) could not be written: {cause}. What was there "
            "before is as it was."
        ) from error


def write_checkpoint(
    path: pathlib.Path,
    tree: PyTree,
    metadata: Any,
    metrics: Mapping[str, Any] | None,
    overwrite: bool,
) -> None:
    """Writes a checkpoint, all at once: `save`, with metrics."""
    checked = checked_metadata(metadata), checked_metrics(metrics)
    if path.parent.is_dir():
        with _telling(path):
            # Before looking whether there is something at `path`, for this may put it back there.
            clean(path.parent, path.name)
    _check_target(path, overwrite)
    entries = _entries(tree)
    with _telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Aside(path, "new")
        try:
            aside.path.mkdir()
            records = _write_leaves(aside.path / LEAVES, entries)
            write_synced(aside.path / MANIFEST, write_manifest(Manifest(records, *checked)))
            sync_folder(aside.path)
            put_in_place(aside.path, path, overwrite)
        finally:
            aside.release()


def save(
    path: str | os.PathLike[str],
    tree: PyTree,
    *,
    metadata: Door[dict[str, Any] | None] = None,
    overwrite: bool = False,
) -> None:
    """Saves a tree: `path` becomes a folder, all at once.

    The leaves are written by `eqx.tree_serialise_leaves` into `leaves-00000.eqx`, and what they
    are into `manifest.json`. JAX and NumPy arrays of any dtype, typed keys and Python numbers are
    saved; other leaves (functions, strings) are not, and come from the `like` of `load`. Nothing
    is pickled.

    The folder is written under another name, synced to disk and renamed, so whatever happens,
    there is a complete checkpoint at `path` or what was there before.

    Args:
        path: The folder to write; its parents are made when needed.
        tree: Any pytree.
        metadata: A dictionary of JSON values to keep with it; see `read_metadata`.
        overwrite: Whether to replace a checkpoint that is there already.

    Raises:
        CheckpointError: If there is something at `path`, a leaf cannot be saved, or the disk is
            full.
        ArgumentTypeError: If `metadata` is not JSON.

    Example:
        >>> treadle.save("model", model, metadata={"width": 64})
        >>> model = treadle.load("model", model)
    """
    write_checkpoint(pathlib.Path(path), tree, metadata, None, overwrite)
