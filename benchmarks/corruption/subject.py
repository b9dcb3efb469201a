"""The checkpoint that is damaged: small, with a leaf of each kind."""

import json
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from treadle import checkpoint

METADATA = {"epoch": 3, "lr": 0.1, "names": ["a", "b"], "deep": {"x": [None, True]}}


def make_tree() -> dict:
    """A tree with every kind of leaf that a checkpoint holds."""
    return {
        "bfloat16": jnp.arange(4, dtype=jnp.bfloat16),
        "bool": np.array([True, False]),
        "count": 3,
        "empty": np.zeros((0, 3)),
        "float8": jnp.ones(4, jnp.float8_e4m3fn),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "key": jax.random.key(7),
        "large": 2**70,
        "model": eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)),
        "rate": 0.5,
        "text": np.array(["ab", "c"]),
        "weight": jnp.arange(6.0, dtype=jnp.float32).reshape(2, 3),
    }


def write(folder: pathlib.Path) -> dict[str, bytes]:
    """Saves it, and gives what its files contain, by name."""
    checkpoint.save(folder, make_tree(), metadata=METADATA)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def leaves(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What the manifest of a checkpoint says of its leaves."""
    return json.loads((folder / "manifest.json").read_text())["leaves"]
