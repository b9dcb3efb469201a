"""Containers that the tests of trees share: JAX learns of each class once, and for good."""

import dataclasses
from typing import Any, NamedTuple

import jax.tree_util as jtu

from treadle.tree._paths import NamedLeaves


@jtu.register_dataclass
@dataclasses.dataclass
class Point:
    x: Any
    y: Any
    label: Any = dataclasses.field(default="p", metadata={"static": True})


class Pair(NamedTuple):
    left: Any
    right: Any


class Flat(NamedLeaves):
    """A node that names its leaves itself, one of them maybe as itself."""

    def __init__(self, names, leaves):
        self.names, self.leaves = names, leaves

    def leaf_paths(self):
        return self.names

    def way_out(self):
        return "Make a new one."


jtu.register_pytree_node(
    Flat, lambda flat: (flat.leaves, flat.names), lambda names, leaves: Flat(names, leaves)
)
