"""Reading what Flax and Orbax have saved."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..._checks import as_path, whole_number
from ..._custom_types import Door
from ..._errors import (
    ArgumentTypeError,
    CheckpointError,
    CheckpointNotFoundError,
    DamagedCheckpointError,
    TreeError,
)
from ...tree._dict import from_dict, to_dict
from ...tree._match import some
from ...tree._paths import flatten_with_paths
from .._packages import required

# What any of the ways in which Orbax lays out a tree of arrays has.
_ORBAX_MARKS = ("_METADATA", "manifest.ocdbt", "checkpoint")
# `10`, `checkpoint_10`, `step_00010`; not what was being written, `checkpoint_tmp`.
_STEP = re.compile(r"(?:.*_)?(\d+)")
# What Flax writes in the place of an array that lay in several processes.
_ELSEWHERE = "//GDAPlaceholder:"
# What decoding garbage raises, in msgpack, in Flax on top of it, and in NumPy.
_GARBAGE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    SyntaxError,  # NumPy's, of the name of a dtype.
)


def read_checkpoint(
    path: Door[str | os.PathLike[str]],
    *,
    like: Door[PyTree | None] = None,
    step: Door[int | None] = None,
) -> dict[str, Any]:
    """What Flax or Orbax saved, as nested dictionaries of NumPy arrays.

    It reads files of `flax.serialization.to_bytes` (`.msgpack`), what
    `flax.training.checkpoints.save_checkpoint` wrote, folders of Orbax's checkpointers, and those
    of its `CheckpointManager`. Nothing is unpickled.

    Args:
        path: A file, the folder of a checkpoint, or the folder of several, one for each step.
        like: What is wanted of it: a dictionary such as
            `{"params": ..., "batch_stats": ...}` whose leaves have shapes and dtypes, or
            `jax.eval_shape(module.init, key, x)`. Of a saved `TrainState` it takes what it names
            and leaves the rest, such as the optimizer's state. Without it, everything comes.
        step: Which of several; the newest by default.

    Returns:
        The tree, for `from_linen(module, variables)`.

    Raises:
        CheckpointNotFoundError: There is none at the path, or not of this step.
        DamagedCheckpointError: What is there cannot be read.
        CheckpointError: It does not fit `like`: what is missing, unexpected or of another shape
            or dtype, all at once.
        ArgumentTypeError: `path` is none, `like` no dictionary, or `step` no number.
        MissingExtraError: Flax or Orbax is not installed.

    Example:
        >>> like = jax.eval_shape(module.init, jax.random.key(0), images[:1])
        >>> variables = treadle.interop.flax.read_checkpoint("checkpoints", like=like)
        >>> model = treadle.interop.flax.from_linen(module, variables)
    """
    if like is not None and not isinstance(like, Mapping):
        raise ArgumentTypeError(
            f"`like` is a {type(like).__name__}: give a dictionary of collections, such as "
            f"`jax.eval_shape(module.init, key, x)`."
        )
    if step is not None:
        step = whole_number("step", step, minimum=0)
    where = _of_step(as_path(path).absolute(), step)
    tree = _read(where)
    return tree if like is None else _fitted(tree, like, where)


def _of_step(path: pathlib.Path, step: int | None) -> pathlib.Path:
    """The folder or file of the checkpoint that is meant."""
    if not path.exists():
        raise CheckpointNotFoundError(f"There is nothing at `path` (={str(path)!r}).")
    if path.is_file() or _is_orbax(path):
        steps = {}
    else:
        names = {child: _STEP.fullmatch(child.name) for child in path.iterdir()}
        steps = {int(match[1]): child for child, match in names.items() if match}
    if step is None:
        return steps[max(steps)] if steps else path
    if step not in steps:
        there = some(map(str, sorted(steps)), 8) or "no steps"
        raise CheckpointNotFoundError(
            f"`path` (={str(path)!r}) has no step {step}: there are {there}."
        )
    return steps[step]


def _is_orbax(path: pathlib.Path) -> bool:
    return any((path / mark).is_file() for mark in _ORBAX_MARKS)


def _read(path: pathlib.Path) -> dict[str, Any]:
    if path.is_file():
        return _read_msgpack(path)
    if _is_orbax(path):
        return _read_orbax(path)
    # A manager's step has a folder for each item; those that are no trees are of other kinds.
    items = {child.name: child for child in path.iterdir() if _is_orbax(child)}
    if not items:
        raise CheckpointNotFoundError(
            f"`path` (={str(path)!r}) is a folder with no checkpoint of Flax or Orbax in it."
        )
    if len(items) == 1:
        return _read_orbax(*items.values())
    return {name: _read_orbax(child) for name, child in sorted(items.items())}


def _read_msgpack(path: pathlib.Path) -> dict[str, Any]:
    serialization = required("flax.serialization", "flax")
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except _GARBAGE as error:
        raise DamagedCheckpointError(
            f"{str(path)!r} is not what `flax.serialization.to_bytes` wrote, or not all of it: "
            f"{error or type(error).__name__}."
        ) from error
    _require_tree(tree, path)
    for name, leaf in flatten_with_paths(tree)[0]:
        if isinstance(leaf, str) and leaf.startswith(_ELSEWHERE):
            raise CheckpointError(
                f"{str(path)!r} has {name!r} in a folder beside it, as an array of several "
                f"processes: restore it with Flax, and save it with Orbax."
            )
    return tree


def _read_orbax(path: pathlib.Path) -> dict[str, Any]:
    ocp = required("orbax.checkpoint", "orbax-checkpoint")
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            found = checkpointer.metadata(path)
            # Older versions return the tree itself.
            found = getattr(found, "item_metadata", found)
            found = getattr(found, "tree", found)
            # As NumPy arrays: they were sharded over devices that need not be here.
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), found)
            wanted = ocp.args.PyTreeRestore(restore_args=as_numpy)
            tree = checkpointer.restore(path, args=wanted)
    except (*_GARBAGE, OSError) as error:
        raise DamagedCheckpointError(
            f"{str(path)!r} looks like a checkpoint of Orbax, and cannot be read as one: {error}"
        ) from error
    _require_tree(tree, path)
    return tree


def _require_tree(tree: Any, path: pathlib.Path) -> None:
    """Refuses what is no dictionary with names for keys, all the way down.

    Raises:
        DamagedCheckpointError: With what is there.
    """
    if not isinstance(tree, dict):
        raise DamagedCheckpointError(
            f"{str(path)!r} holds a {type(tree).__name__}, no dictionary of arrays."
        )
    nodes: list[Any] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            strange = [key for key in node if not isinstance(key, str)]
            if strange:
                raise DamagedCheckpointError(
                    f"{str(path)!r} has a dictionary with the key {strange[0]!r}, which is no name."
                )
            nodes += node.values()
        elif isinstance(node, (list, tuple)):
            nodes += node


def _fitted(tree: dict[str, Any], like: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """What `like` names of a tree, if it fits.

    Raises:
        CheckpointError: It does not.
    """
    wanted = required("flax.core", "flax").unfreeze(like)
    part = {name: tree[name] for name in wanted if name in tree}
    try:
        filled = from_dict(to_dict(part), wanted)
    except TreeError as error:
        _, _, told = str(error).partition("`like`: ")
        raise CheckpointError(
            f"The checkpoint {str(path)!r} does not fit `like`: {told or error} At its top it has "
            f"{some(map(repr, tree), 8) or 'nothing'}. To take a part of it, read it without "
            f"`like`."
        ) from error
    pairs = zip(flatten_with_paths(filled)[0], jax.tree.leaves(wanted), strict=True)
    wrong = [
        f"{name!r} is {np.asarray(leaf).dtype}, and {own.dtype} in `like`"
        for (name, leaf), own in pairs
        if np.asarray(leaf).dtype != own.dtype
    ]
    if wrong:
        raise CheckpointError(
            f"The checkpoint {str(path)!r} does not fit `like`: {some(wrong, 8)}. Nothing is cast "
            f"unasked: read it with a `like` of its own dtypes, and `treadle.tree.cast` it."
        )
    return filled
