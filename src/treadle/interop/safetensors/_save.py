"""Saving a tree as a safetensors file, all at once."""

import contextlib
import json
import os
import pathlib
import secrets
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..._checks import as_path
from ..._custom_types import Door
from ..._durable import make_folder, sync_folder
from ..._errors import ArgumentTypeError, CheckpointError
from ...checkpoint._storage import check_saveable, quoted, spec_of, to_storage
from ...tree._paths import flatten_with_paths
from ..torch._tensors import is_torchs
from ._format import (
    LONGEST_HEADER,
    METADATA,
    NAMES,
    Entry,
    Header,
    composed,
    laid_out,
)

_PIECE = 1 << 24
_TOLD = 8


def named_leaves(tree: PyTree) -> tuple[list[tuple[str, Any]], Any]:
    """The leaves by their names in a file, and the structure.

    A name is a path. Those of a dictionary of leaves, as `load` and `treadle.tree.to_dict` make it,
    are its own: it is saved as the tree is that it was made of.
    """
    named, treedef = flatten_with_paths(tree)
    if type(tree) is dict and all(type(name) is str for name in tree):
        there = {name: leaf for name, leaf in sorted(tree.items()) if leaf is not None}
        if jax.tree_util.all_leaves(there.values()):
            return list(there.items()), treedef
    return named, treedef


def format_of(path: str, leaf: Any) -> tuple[str, tuple[int, ...]] | None:
    """Dtype and shape of a leaf in a file; None for one that is not saved.

    Raises:
        CheckpointError: It is an array that no such file can hold.
    """
    if is_torchs(leaf):
        raise CheckpointError(
            f"The leaf {quoted(path)} is a {type(leaf).__name__} of PyTorch's, and no array: give "
            "`tensor.numpy(force=True)` for a tensor, and the `state_dict()` of a module. The "
            "package itself writes tensors, `safetensors.torch.save_file`."
        )
    spec = spec_of(path, leaf)
    if spec is None or spec.dtype.startswith("python "):
        return None
    name = None if spec.dtype == "key" else NAMES.get(np.dtype(spec.dtype))
    if name is None:
        raise CheckpointError(
            f"The leaf {quoted(path)} is {spec}, which no safetensors file can hold: {_way(spec)}"
        )
    return name, spec.shape


def _way(spec: Any) -> str:
    if spec.dtype == "key":
        return "save `jax.random.key_data` of it, or the tree by `treadle.save`."
    if spec.dtype.startswith(("<", ">")):
        return "give it the byte order of this machine, or make it numbers."
    return "cast it (`treadle.tree.cast`), or save the tree by `treadle.save`, which keeps it."


def _formats(named: list[tuple[str, Any]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of what is saved, by path; all leaves that cannot be are told at once."""
    found, wrong = {}, []
    for path, leaf in named:
        try:
            form = format_of(path, leaf)
            if form is not None:
                check_saveable(path, leaf)
                if path == METADATA:
                    raise CheckpointError(f"The leaf {quoted(path)} has a name that is taken.")
                path.encode()
                found[path] = form
        except UnicodeEncodeError:
            wrong.append(f"The leaf {path!r} has a name that is no Unicode text.")
        except CheckpointError as error:
            wrong.append(str(error))
    if wrong:
        more = [f"And {len(wrong) - _TOLD} more."] if len(wrong) > _TOLD else []
        raise CheckpointError("\n".join([*wrong[:_TOLD], *more]))
    return found


def _checked_metadata(metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise ArgumentTypeError(
            f"`metadata` (={metadata!r}) must be a dictionary of strings, not of type "
            f"{type(metadata).__name__}."
        )
    for name, text in metadata.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise ArgumentTypeError(
                f"`metadata` has {name!r}: {text!r}, and a safetensors file holds strings by "
                "strings only: `json.dumps` makes one of anything else."
            )
    try:
        json.dumps(metadata, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ArgumentTypeError(f"`metadata` is no Unicode text: {error}.") from error
    return metadata


def save(
    path: Door[str | os.PathLike[str]],
    tree: PyTree,
    *,
    metadata: Door[dict[str, str] | None] = None,
    overwrite: bool = False,
) -> None:
    """Saves a tree as one safetensors file, which PyTorch, Hugging Face and others read.

    Each array stands there under its path, as `treadle.tree.to_dict` has them, in its own dtype;
    what `to_dict` gave, or any other dictionary of arrays, under its own names.
    Other leaves (functions, strings, Python's numbers) are settings, not weights: they are not
    saved, and come from the `like` of `load`.

    The file is written under another name, synced to disk and renamed: whatever happens, there is a
    complete file at `path`, or what was there before.

    Args:
        path: The file to write; its folders are made when needed.
        tree: Any pytree.
        metadata: Strings by name, to keep with it.
        overwrite: Whether to replace a file that is there already.

    Raises:
        CheckpointError: There is something at `path`, it cannot be written, or leaves cannot be
            saved: typed keys, `complex128`, 4-bit numbers, text, PyTorch's tensors.
        ArgumentTypeError: `path` is no path, or `metadata` is not a dictionary of strings.

    Example:
        >>> safetensors.save("model.safetensors", model, metadata={"width": "64"})
        >>> model = safetensors.load("model.safetensors", model)
    """
    target = as_path(path)
    named, _ = named_leaves(tree)
    entries = laid_out(_formats(named))
    front = composed(Header(entries, _checked_metadata(metadata)))
    if len(front) - 8 > LONGEST_HEADER:
        raise CheckpointError(
            f"The header would have {len(front) - 8:,} bytes, and {LONGEST_HEADER:,} is the most "
            "that is read: save parts of the tree in files of their own."
        )
    _require_free(target, overwrite)
    try:
        make_folder(target.parent)
        _write(target, front, entries, dict(named))
    except OSError as error:
        raise CheckpointError(
            f"`path` (={str(path)!r}) could not be written: {error}. What was there before is as "
            "it was."
        ) from error


def _require_free(path: pathlib.Path, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if path.is_dir():
        raise CheckpointError(f"`path` (={str(path)!r}) is a folder: name a file in it.")
    if not overwrite:
        raise CheckpointError(
            f"`path` (={str(path)!r}) exists already: choose another, or say `overwrite=True` to "
            "put the new file in its place."
        )


def _write(
    path: pathlib.Path, front: bytes, entries: dict[str, Entry], leaves: dict[str, Any]
) -> None:
    aside = path.with_name(f".{path.name}.new-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(aside, "xb") as file:
            file.write(front)
            for name in entries:
                _write_leaf(file, name, leaves[name])
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    sync_folder(path.parent)


def _write_leaf(file: Any, name: str, leaf: Any) -> None:
    spec = spec_of(name, leaf)
    assert spec is not None
    # One at a time: of a model on an accelerator there is never more than one leaf on the host.
    data = np.ascontiguousarray(to_storage(leaf, spec)).reshape(-1).view(np.uint8)
    for start in range(0, data.size, _PIECE):
        file.write(data[start : start + _PIECE])
