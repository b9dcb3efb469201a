"""Containers that are no modules: a named tuple and a registered dataclass."""

import dataclasses
from typing import Any, NamedTuple

import jax


class Point(NamedTuple):
    """A named tuple of two."""

    x: Any
    y: Any


@dataclasses.dataclass(eq=False)
class Record:
    """A dataclass registered with JAX: `data` holds children, `note` is static.

    Attributes:
        data: Any pytree.
        note: Part of the structure.
    """

    data: Any
    note: str = ""


jax.tree_util.register_dataclass(Record, data_fields=["data"], meta_fields=["note"])
