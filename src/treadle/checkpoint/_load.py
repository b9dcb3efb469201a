"""Loading: every leaf checked against the manifest before a byte of it is used."""

import io
import os
import pathlib
import zlib
from typing import Any

import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._errors import CheckpointError, CheckpointNotFoundError
from ..tree._paths import flatten_with_paths
from ._folders import find
from ._manifest import LEAVES, Manifest, Record, read_manifest
from ._mismatch import mismatches
from ._save import crc32
from ._storage import from_storage, quoted, spec_of


def open_manifest(path: str | os.PathLike[str]) -> tuple[pathlib.Path, Manifest]:
    """The folder in which the checkpoint of a path lies, and its manifest.

    Raises:
        CheckpointNotFoundError: If there is nothing at `path`.
        CheckpointError: If what is there is not a checkpoint, or damaged.
    """
    path = pathlib.Path(path)
    folder = find(path)
    if not folder.exists():
        raise CheckpointNotFoundError(
            f"There is no checkpoint at `path` (={str(path)!r}): give the folder that "
            "`treadle.save` wrote."
        )
    if not folder.is_dir():
        raise CheckpointError(
            f"`path` (={str(path)!r}) is a file, and a checkpoint is a folder. Files that Equinox "
            "wrote are read by `eqx.tree_deserialise_leaves`."
        )
    return folder, read_manifest(folder)


class _Leaves:
    """The file of leaves, which hands out no byte that its digest does not cover."""

    def __init__(self, file: io.BufferedReader, name: str):
        self._file = file
        self._name = name

    def read(self, record: Record) -> np.ndarray:
        """A leaf as it was stored."""
        raw = np.empty(record.nbytes, np.uint8)
        self._file.seek(record.offset)
        if self._file.readinto(raw.data) != record.nbytes:
            raise self._damaged(record, "the file ends in the middle of it")
        if crc32(zlib.crc32(raw.data)) != record.digest:
            raise self._damaged(record, f"its bytes are not those that were written ({self._name})")
        try:
            stored = _parse(raw)
        except ValueError as error:
            raise self._damaged(record, f"it is not an array in NumPy's format: {error}") from error
        # NumPy's format knows bfloat16 as two raw bytes.
        dtype = np.dtype("V2" if record.spec.storage == "bfloat16" else record.spec.storage)
        ndim = len(record.spec.shape)  # Of keys; their data have an axis more.
        if stored.dtype != dtype or stored.shape[:ndim] != record.spec.shape:
            raise self._damaged(record, f"the file has {stored.dtype}{list(stored.shape)} there")
        return stored

    def _damaged(self, record: Record, how: str) -> CheckpointError:
        return CheckpointError(
            f"The checkpoint {self._name!r} is damaged at the leaf {quoted(record.path)}: {how}. "
            "Go back to an earlier checkpoint."
        )


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


def _check_fits(folder: pathlib.Path, manifest: Manifest, named: list[tuple[str, Any]]) -> None:
    saved = {record.path: record.spec for record in manifest.records}
    specs = {path: spec_of(path, leaf) for path, leaf in named}
    wanted = {path: spec for path, spec in specs.items() if spec is not None}
    if lines := mismatches(saved, wanted):
        raise CheckpointError(
            f"The checkpoint {str(folder)!r} does not fit `like`: it has {len(saved)} leaves, "
            f"`like` has {len(wanted)}, and these differ:\n  "
            + "\n  ".join(lines)
            + "\nBuild `like` as the tree was built that was saved; nothing is cast or reshaped."
        )


def load(path: str | os.PathLike[str], like: PyTree) -> PyTree:
    """Loads a tree that `save` wrote.

    Args:
        path: The folder.
        like: A tree of the same structure, shapes and dtypes; `jax.ShapeDtypeStruct`s will do
            (`eqx.filter_eval_shape(make_model, key)`).

    Returns:
        The tree, with NumPy arrays and Python numbers where `like` has them, elsewhere with JAX
        arrays on the default device, not committed to it. What is not saved (functions,
        strings) is that of `like`.

    Raises:
        CheckpointNotFoundError: If there is nothing at `path`.
        CheckpointError: If the checkpoint does not fit `like`, with every leaf that does not; or
            if it is damaged, with the leaf where it is.

    Example:
        >>> treadle.save("model", model)
        >>> model = treadle.load("model", eqx.filter_eval_shape(make_model, jax.random.key(0)))
    """
    folder, manifest = open_manifest(path)
    named, treedef = flatten_with_paths(like)
    _check_fits(folder, manifest, named)
    records = {record.path: record for record in manifest.records}
    leaves = []
    with _open_leaves(folder, manifest) as file:
        reader = _Leaves(file, str(folder / LEAVES))
        for path_, leaf in named:
            record = records.get(path_)
            if record is None:
                leaves.append(leaf)
            elif record.value is not None:
                leaves.append(int(record.value, 16))
            else:
                leaves.append(from_storage(reader.read(record), leaf))
    return jtu.tree_unflatten(treedef, leaves)


def _open_leaves(folder: pathlib.Path, manifest: Manifest) -> io.BufferedReader:
    try:
        file = open(folder / LEAVES, "rb")  # noqa: SIM115  # The caller closes it.
    except FileNotFoundError:
        raise CheckpointError(
            f"The checkpoint {str(folder)!r} is damaged: its file {LEAVES} is gone. Go back to an "
            "earlier checkpoint."
        ) from None
    expected = sum(record.nbytes for record in manifest.records)
    # A file that is too short is told by the leaf that is cut off.
    if (size := os.fstat(file.fileno()).st_size) > expected:
        file.close()
        raise CheckpointError(
            f"The checkpoint {str(folder)!r} is damaged: its file {LEAVES} has {size} bytes, and "
            f"{expected} were written. Go back to an earlier checkpoint."
        )
    return file


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `metadata` that was saved with a tree, without reading the tree.

    Args:
        path: The folder that `save` wrote.

    Returns:
        The dictionary as JSON gives it back (tuples are lists); empty if there was none.

    Raises:
        CheckpointNotFoundError: If there is nothing at `path`.
        CheckpointError: If what is there is not a checkpoint, or its manifest is damaged.
    """
    return open_manifest(path)[1].metadata
