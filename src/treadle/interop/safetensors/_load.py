"""Reading a safetensors file, mapped into memory."""

import mmap
import os
import stat
from typing import Any, overload

import jax
import numpy as np
from jaxtyping import PyTree

from ..._checks import as_path
from ..._custom_types import Door
from ..._errors import CheckpointError, CheckpointNotFoundError, DamagedCheckpointError
from ...checkpoint._storage import quoted, settled
from .._leaves import is_read_as, leaf_like
from .._names import misfits
from ._format import DTYPES, LONGEST_HEADER, Entry, Header, damaged, parsed
from ._save import format_of, named_leaves

# What is handed over instead, by its first bytes.
_OTHERS = (
    (b"PK", "a zip archive: `treadle.data.npz` reads .npz, and `torch.load` what PyTorch saved"),
    (b"{", "JSON: of weights in several files it is the index, and each is loaded by itself"),
    (b"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the file itself"),
    (b"<", "a page of the web, or other markup: fetch the file itself"),
)


@overload
def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]: ...


@overload
def load(path: str | os.PathLike[str], like: PyTree, *, cast: bool = False) -> PyTree: ...


def load(
    path: Door[str | os.PathLike[str]], like: Door[PyTree] = None, *, cast: bool = False
) -> PyTree:
    """Reads a safetensors file, of whoever wrote it.

    Args:
        path: The file.
        like: A tree of the structure that is wanted. Its arrays say of what kind each is (JAX's or
            NumPy's) and on which devices; they may be `jax.ShapeDtypeStruct`s. What is no array is
            taken from it.
            Without it the arrays come by name, as views of the file: nothing is read until it is
            looked at, so the file must stay as it is.
        cast: Whether numbers of another precision may become those of `like`.

    Returns:
        The tree; or a dictionary of read-only NumPy arrays by name. Names that are not those of a
        tree of yours go through `treadle.interop.torch.from_torch`.

    Raises:
        ArgumentTypeError: `path` is no path.
        CheckpointNotFoundError: There is no such file.
        DamagedCheckpointError: It is no safetensors file, or is damaged.
        CheckpointError: It does not fit `like`: every leaf that does not is told; or it cannot be
            read, or has numbers that are packed (F4, F6).

    Example:
        >>> model = safetensors.load("model.safetensors", model)
        >>> weight = safetensors.load("theirs.safetensors")["encoder.weight"]
    """
    file = str(as_path(path))
    header, mapped, offset = _opened(file)
    if like is None:
        return {
            name: _view(mapped, offset, entry, name, file) for name, entry in header.entries.items()
        }
    named, treedef = named_leaves(like)
    wanted = {}
    for name, leaf in named:
        form = format_of(name, leaf)
        if form is not None:
            wanted[name] = form
    wrong = misfits(
        {name: (entry.dtype, entry.shape) for name, entry in header.entries.items()},
        wanted,
        told=_told,
        fit=lambda theirs, ours: (
            theirs[1] == ours[1] and is_read_as(DTYPES[theirs[0]], DTYPES[ours[0]], cast)
        ),
        where=("the file", "`like`"),
    )
    if wrong:
        asked = "" if cast else "; `cast=True` makes floats of one precision those of another"
        raise CheckpointError(
            f"{file!r} does not fit `like`:\n  " + "\n  ".join(wrong) + f"\nBuild `like` as the "
            f"tree was built that was saved{asked}. Under other names, load it without `like` and "
            "give the arrays to `treadle.interop.torch.from_torch` with a table of names."
        )
    leaves = [
        _leaf(mapped, offset, header.entries[name], name, leaf, file) if name in wanted else leaf
        for name, leaf in named
    ]
    return jax.tree.unflatten(treedef, settled(leaves))


def read_metadata(path: Door[str | os.PathLike[str]]) -> dict[str, str]:
    """What was given to `save` as `metadata`; of a file of others, what they wrote there.

    Args:
        path: The file.

    Raises:
        ArgumentTypeError: `path` is no path.
        CheckpointNotFoundError: There is no such file.
        DamagedCheckpointError: It is no safetensors file, or is damaged.
        CheckpointError: It cannot be read.
    """
    return _opened(str(as_path(path)))[0].metadata


def _told(form: tuple[str, tuple[int, ...]]) -> str:
    return f"{DTYPES[form[0]].name}[{','.join(map(str, form[1]))}]"


def _opened(file: str) -> tuple[Header, Any, int]:
    """The header of a file, the file in memory, and where its arrays begin."""
    # A pipe would be waited for; a link is followed, for that is how caches of downloads are made.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(file, flags)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f"There is no file at `path` (={file!r}).") from error
    except OSError as error:
        raise CheckpointError(f"`path` (={file!r}) cannot be read: {error}.") from error
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise CheckpointError(f"`path` (={file!r}) is no file but a folder, pipe or device.")
        if state.st_size < 8:
            raise damaged(file, f"it has {state.st_size} bytes, and the first 8 are a length")
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"`path` (={file!r}) cannot be read: {error}.") from error
    finally:
        os.close(descriptor)
    length = int.from_bytes(mapped[:8], "little")
    left = state.st_size - 8
    if length > min(left, LONGEST_HEADER):
        for begin, other in _OTHERS:
            # The length in a file that is merely cut off ends in zeros.
            if length >= 2**32 and mapped[: len(begin)] == begin:
                raise DamagedCheckpointError(f"{file!r} is no safetensors file but {other}.")
        raise damaged(
            file,
            f"its first 8 bytes tell of a header of {length:,} bytes, and {left:,} follow"
            + ("" if left < length else f" (at most {LONGEST_HEADER:,} are read)"),
        )
    return parsed(mapped[8 : 8 + length], left - length, file), mapped, 8 + length


def _view(mapped: Any, offset: int, entry: Entry, name: str, file: str) -> np.ndarray:
    """An array as it lies in the file."""
    count = entry.stop - entry.start
    flat = np.frombuffer(mapped, np.uint8, count, offset + entry.start)
    if entry.dtype == "BOOL" and np.any(flat > 1):
        raise damaged(file, f"{quoted(name)} has booleans that are neither 0 nor 1")
    return flat.view(DTYPES[entry.dtype]).reshape(entry.shape)


def _leaf(mapped: Any, offset: int, entry: Entry, name: str, like: Any, file: str) -> Any:
    # A copy, for JAX takes an array as it is where it can, and the file may change or go.
    stored = np.array(_view(mapped, offset, entry, name, file))
    return leaf_like(stored, like, f"{quoted(name)} of {file!r}")
