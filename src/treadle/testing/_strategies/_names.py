"""What functions and classes are called where code is pasted."""

import builtins
import functools
import importlib
import sys
import types
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import pool

_ALIASES = {"equinox": "eqx", "numpy": "np", "jax": "jax", "optax": "optax", "treadle": "treadle"}
"""The packages that pasted code may name, and what it calls them."""

_PLACES: tuple[tuple[str, Any], ...] = (
    ("pool.", pool),
    ("jax.nn.", jax.nn),
    ("jnp.", jnp),
    ("jnp.linalg.", jnp.linalg),
    ("jax.lax.", jax.lax),
    ("jax.tree_util.", jax.tree_util),
    ("jax.random.", jax.random),
    ("jax.", jax),
    ("eqx.nn.", eqx.nn),
    ("eqx.", eqx),
    ("optax.", optax),
    ("optax.schedules.", optax.schedules),
    ("np.", np),
    ("", builtins),
)


@functools.cache
def _known() -> dict[int, tuple[str, Any]]:
    """Every public function and class by its identity."""
    found: dict[int, tuple[str, Any]] = {}
    for prefix, place in _PLACES:
        for name, value in vars(place).items():
            if not name.startswith("_") and callable(value):
                found.setdefault(id(value), (prefix + name, value))
    return found


def _resolves(module: types.ModuleType, path: str, value: Any) -> bool:
    for name in path.split("."):
        module = getattr(module, name, None)  # pyright: ignore[reportAssignmentType]
    return module is value


def _is_derived(value: Any, module: str, path: str) -> bool:
    """Whether a function was made of another one, and took over its name without its place."""
    place = sys.modules.get(module)
    if not hasattr(value, "__wrapped__") or "<locals>" in path or place is None:
        return False
    return not _resolves(place, path, value)


def name_of(value: Any) -> str | None:
    """The expression for a function or class; `None` for what has no name.

    Public names first, then where it is defined. What is defined outside of the packages that
    pasted code imports is called by its bare name.
    """
    name, known = _known().get(id(value), (None, None))
    if known is value and name is not None:
        return name
    module = getattr(value, "__module__", None)
    path = getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str):
        return None
    short = path.rpartition("<locals>.")[2]
    if not all(part.isidentifier() for part in short.split(".")):
        return None
    root, _, rest = module.partition(".")
    if root not in _ALIASES:
        return None if _is_derived(value, module, path) else short
    if path != short or not _resolves(importlib.import_module(module), path, value):
        return None
    return ".".join(part for part in (_ALIASES[root], rest, path) if part)
