"""The ways to save a tree that are compared; one that is not installed is skipped by name.

Each has `save(path, tree)` and `load(path, like)`; afterwards every file is synced (ours are
already), so that what is timed is on the disk for all of them.
"""

import importlib.util
import os
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import treadle
from treadle.checkpoint import _leaf_file


class Raw:
    """The floor: the same bytes in one file, and nothing that says what they are."""

    needs = None

    def save(self, path, tree):
        with open(path, "wb", buffering=0) as file:
            for leaf in jax.tree.leaves(tree):
                file.write(np.asarray(leaf).data.cast("B"))
            os.fsync(file.fileno())

    def load(self, path, like):
        leaves, treedef = jax.tree.flatten(like)
        read = []
        with open(path, "rb", buffering=0) as file:
            for leaf in leaves:
                array = np.empty(leaf.shape, leaf.dtype)
                file.readinto(array.data.cast("B"))
                read.append(jax.device_put(array))
        return jax.tree.unflatten(treedef, read)


class Treadle:
    needs = None

    def save(self, path, tree):
        treadle.save(path, tree)

    def load(self, path, like):
        return treadle.load(path, like)


class TreadleLate(Treadle):
    """Ours, if it asked the disk only at the end."""

    def save(self, path, tree):
        stride, _leaf_file._STRIDE = _leaf_file._STRIDE, 1 << 62
        try:
            super().save(path, tree)
        finally:
            _leaf_file._STRIDE = stride


class Equinox:
    """What people do today."""

    needs = None

    def save(self, path, tree):
        eqx.tree_serialise_leaves(path, tree)

    def load(self, path, like):
        return eqx.tree_deserialise_leaves(path, like)


class Orbax:
    needs = "orbax.checkpoint"

    def __init__(self):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._checkpointer = ocp.Checkpointer(ocp.StandardCheckpointHandler())

    def save(self, path, tree):
        self._checkpointer.save(path, args=self._ocp.args.StandardSave(tree))

    def load(self, path, like):
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
        )
        return self._checkpointer.restore(path, args=self._ocp.args.StandardRestore(abstract))


class Torch:
    """Tensors of its own, which the arrays are copied to outside of the figure."""

    needs = "torch"

    def __init__(self):
        import torch

        self._torch = torch
        self._tensors = None

    def prepare(self, tree):
        self._tensors = {
            name: self._torch.from_numpy(np.array(leaf)) for name, leaf in tree.items()
        }

    def save(self, path, tree):
        self._torch.save(self._tensors, path)

    def load(self, path, like):
        return self._torch.load(path, weights_only=True)


class Safetensors:
    needs = "safetensors"

    def save(self, path, tree):
        from safetensors.numpy import save_file

        save_file({name: np.asarray(leaf) for name, leaf in tree.items()}, path)

    def load(self, path, like):
        from safetensors.numpy import load_file

        return jax.tree.map(jnp.asarray, load_file(path))


WRITERS = {
    "raw": Raw,
    "treadle": Treadle,
    "treadle, synced at the end": TreadleLate,
    "equinox": Equinox,
    "orbax": Orbax,
    "torch.save": Torch,
    "safetensors": Safetensors,
}


class TreadleAsync:
    """Of a training: `save` returns when the tree may be donated."""

    needs = None

    def __init__(self, directory):
        self._checkpointer = treadle.Checkpointer(directory, keep_last=1)

    def save(self, step, tree):
        self._checkpointer.save(step, tree)

    def wait(self):
        self._checkpointer.wait()


class TreadleCopied(TreadleAsync):
    """What it would be to copy the state first, instead of looking at it."""

    def save(self, step, tree):
        copies = jax.tree.map(lambda leaf: jax.device_put(np.array(leaf)), tree)
        self._checkpointer.save(step, copies)


class OrbaxAsync:
    needs = "orbax.checkpoint"

    def __init__(self, directory):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(directory, options=options)

    def save(self, step, tree):
        self._manager.save(step, args=self._ocp.args.StandardSave(tree))

    def wait(self):
        self._manager.wait_until_finished()


ASYNCHRONOUS = {
    "treadle": TreadleAsync,
    "treadle, copied first": TreadleCopied,
    "orbax": OrbaxAsync,
}


def is_installed(kind):
    if kind.needs is None:
        return True
    package = kind.needs.partition(".")[0]
    return importlib.util.find_spec(package) is not None


def synced(path):
    """Returns when all files under a path are on the disk."""
    path = pathlib.Path(path)
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
