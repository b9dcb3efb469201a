"""Loading: every leaf checked against the manifest before a byte of it is used."""

import contextlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.tree_util as jtu
from jaxtyping import PyTree

from .._custom_types import Door
from .._errors import (
    ArgumentTypeError,
    ArgumentValueError,
    CheckpointError,
    CheckpointNotFoundError,
)
from ..tree._paths import flatten_with_paths
from ._assign import assigned
from ._fitting import Fitting, Options
from ._folders import find
from ._manifest import Manifest, Record, read_manifest
from ._reader import LeafReader
from ._statics import statics_of
from ._storage import casted, from_storage, quoted, settled


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


def _leaf(reader: LeafReader, record: Record | None, like: Any) -> Any:
    if record is None:
        return like
    if record.value is not None:
        return int(record.value, 16)
    stored = reader.read(record)
    try:
        return from_storage(casted(stored, record.spec, like), like)
    except OverflowError as error:
        raise CheckpointError(
            f"The leaf {quoted(record.path)} cannot be cast: {error}. Load it as it is, without "
            "`cast`, and convert it as you want it."
        ) from error
    except ValueError as error:
        raise reader.damaged(record, str(error)) from error


def _require_globs(only: Any) -> None:
    if only is None:
        return
    if isinstance(only, (str, bytes)) or not isinstance(only, Sequence):
        raise ArgumentTypeError(
            f"`only` (={only!r}) must be a list of globs, such as ['encoder/**'], not of type "
            f"{type(only).__name__}."
        )
    for glob in only:
        if not isinstance(glob, str):
            raise ArgumentTypeError(
                f"`only` (={only!r}) holds {glob!r}: write globs as strings, ['encoder/**']."
            )
    if not only:
        raise ArgumentValueError(
            f"`only` (={only!r}) must have at least one glob; leave it out to load everything."
        )


def load(
    path: str | os.PathLike[str],
    like: PyTree,
    *,
    strict: bool = True,
    rename: Door[Mapping[str, str] | None] = None,
    only: Door[Sequence[str] | None] = None,
    cast: bool = False,
) -> PyTree:
    """Loads a tree that `save` wrote.

    Every byte is checked against its digest before it is used. Nothing is unpickled, and nothing
    outside of the folder is read, whatever the manifest says. Static fields that are plain values
    (numbers, words) must be those that were saved, unless `rename` or `only` is given.

    Args:
        path: The folder.
        like: A tree of the same structure, shapes and dtypes; `jax.ShapeDtypeStruct`s will do
            (`eqx.filter_eval_shape(make_model, key)`).
        strict: Whether everything must fit. With False, leaves that are missing in the checkpoint,
            or of another shape or dtype there, stay those of `like`, and what `like` does not have
            is not read; a warning in the log `treadle` says which.
        rename: New names of leaves by globs over those in the checkpoint, such as
            `{"encoder/**": "backbone/**"}`. To load the model of a `TrainState`:
            `rename={"model/**": "**"}, strict=False`.
        only: Globs over the leaves of `like`: the others stay as they are, and what else the
            checkpoint has does not matter.
        cast: Whether numbers of another precision are converted to that of `like` (floats to
            floats, complex numbers to complex numbers, integers to integers). A number that does
            not fit is an error.

    Returns:
        The tree, with NumPy arrays and Python numbers where `like` has them, elsewhere with JAX
        arrays. These lie where those of `like` were put (`jax.device_put`, a `sharding`), else on
        the default device, not committed to it. What is not saved (functions, strings) is that of
        `like`.

    Raises:
        CheckpointNotFoundError: If there is nothing at `path`.
        CheckpointError: If the checkpoint does not fit `like`, with every leaf that does not and
            the call that loads the rest; or if it is damaged, with the leaf where it is.
        TreeError: If a glob matches nothing.
        ArgumentTypeError, ArgumentValueError: If `rename` or `only` cannot be used.

    Example:
        >>> treadle.save("model", model)
        >>> model = treadle.load("model", eqx.filter_eval_shape(make_model, jax.random.key(0)))
    """
    _require_globs(only)
    folder, manifest = open_manifest(path)
    named, treedef = flatten_with_paths(like)
    options = Options(strict=strict, rename=rename, only=only, cast=cast)
    records = assigned(Fitting(folder, manifest, named, statics_of(like)), options)
    with contextlib.closing(LeafReader(folder, manifest)) as reader:
        leaves = [_leaf(reader, records.get(name), leaf) for name, leaf in named]
    leaves = settled(leaves)
    return jtu.tree_unflatten(treedef, leaves)


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
