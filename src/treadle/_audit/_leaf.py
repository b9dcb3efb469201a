"""The arrays that go into a program and come out of it, as a rule names them."""

import dataclasses
from typing import Any

import jax


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """One array that goes into the program, or comes out of it.

    Attributes:
        index: Its place among all that go in, or come out.
        path: `"model/layers/0/weight"`.
        aval: Its shape, dtype and weak type.
        donated: Whether the caller gives its memory away.
        value: The array itself, of what goes in.
    """

    index: int
    path: str
    aval: Any
    donated: bool = False
    value: Any = None

    @property
    def nbytes(self) -> int:
        """Its size."""
        return int(self.aval.size) * int(self.aval.dtype.itemsize)


@dataclasses.dataclass(frozen=True)
class Static:
    """A leaf that is part of the program: a function, a number."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of the function.

    Attributes:
        name: As in the function's signature.
        tree: The argument, a `Leaf` for each array, and `Static` for the rest.
    """

    name: str
    tree: Any

    @property
    def leaves(self) -> list[Leaf]:
        """Its arrays."""
        return leaves_of(self.tree)


def leaves_of(tree: Any) -> list[Leaf]:
    """The arrays of a tree of leaves."""
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, Leaf)]
