"""Saving: the leaves through Equinox, the manifest beside them, and all of it at once or not."""

import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PyTree

from .._custom_types import Door
from .._durable import make_folder, sync_folder
from .._errors import CheckpointError
from ._folders import Aside, clean, put_in_place, write_synced
from ._leaf_file import LeafFile
from ._manifest import LEAVES, MANIFEST, Manifest, Record, write_manifest
from ._prepared import Entry, Prepared, prepare


def _write_array(file: LeafFile, array: np.ndarray) -> None:
    """The bytes that `np.save` writes; NumPy itself copies the data first, holding up all threads.

    That the bytes are the same is what lets `eqx.tree_deserialise_leaves` read them.
    """
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        header, data = np.lib.format.header_data_from_array_1_0(array), array.T
    else:
        data = np.asarray(array, order="C")
        header = np.lib.format.header_data_from_array_1_0(data)
    np.lib.format.write_array_header_1_0(file, header)  # pyright: ignore[reportArgumentType]
    # As bytes: no buffer has the dtypes of times, nor those that are not NumPy's.
    file.write(data.reshape(-1).view(np.uint8) if data.nbytes else b"")


def _write_leaves(path: pathlib.Path, entries: list[Entry]) -> list[Record]:
    records = []

    def write_one(file: LeafFile, entry: Entry) -> None:
        file.restart()
        value = entry.value
        if value is None:
            _write_array(file, entry.take())
        nbytes = file.offset - file.start
        records.append(Record(entry.path, entry.spec, file.start, nbytes, file.digest, value))

    file = LeafFile(path)
    try:
        eqx.tree_serialise_leaves(file, entries, filter_spec=write_one)  # pyright: ignore[reportArgumentType]
        file.sync()
    finally:
        file.close()
    return records


def is_checkpoint(path: pathlib.Path) -> bool:
    """Whether a checkpoint lies at `path`, complete as all of them are."""
    return (path / MANIFEST).is_file()


def check_target(path: pathlib.Path, overwrite: bool) -> None:
    """Refuses a path where something is that is not to be overwritten.

    Raises:
        CheckpointError: With the way out.
    """
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
def telling(path: pathlib.Path) -> Iterator[None]:
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


def write_checkpoint(path: pathlib.Path, prepared: Prepared, overwrite: bool) -> None:
    """Writes a checkpoint, all at once.

    Raises:
        CheckpointError: If there is something at `path`, or the disk is full.
    """
    if path.parent.is_dir():
        with telling(path):
            # Before looking whether there is something at `path`, for this may put it back there.
            clean(path.parent, path.name)
    check_target(path, overwrite)
    with telling(path):
        make_folder(path.parent)
        aside = Aside(path, "new")
        try:
            aside.make()
            records = _write_leaves(aside.path / LEAVES, prepared.entries)
            manifest = Manifest(records, prepared.statics, prepared.metadata, prepared.metrics)
            write_synced(aside.path / MANIFEST, write_manifest(manifest))
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
    are into `manifest.json`, with a digest of every byte. JAX and NumPy arrays of any dtype, typed
    keys and Python numbers are saved; other leaves (functions, strings) are not, and come from the
    `like` of `load`. Nothing is pickled.

    The folder is written under another name, synced to disk and renamed, so whatever happens,
    there is a complete checkpoint at `path` or what was there before. No leaf is copied that is on
    the host already; of others one at a time.

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
    write_checkpoint(pathlib.Path(path), prepare(tree, metadata, None), overwrite)
