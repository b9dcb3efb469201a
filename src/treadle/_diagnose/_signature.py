"""What a compiled program depends on, as it stands at a call."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from ..tree._match import same_structure
from ..tree._paths import flatten_with_paths, join
from ..tree._values import same_static

Signature = Mapping[str, str]
"""The path of every leaf with its dtype and shape, or what it is."""

_SETTINGS = (
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_matmul_precision",
    "jax_default_device",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_softmax_custom_jvp",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_debug_key_reuse",
    "jax_enable_checks",
    "jax_check_tracer_leaks",
    "jax_use_shardy_partitioner",
)
"""What of JAX's configuration a program is traced or compiled by, as far as it has a name."""


def describe(leaf: Any) -> str:
    """`float32[32,64]`; a value that is not an array as itself."""
    if isinstance(leaf, (bool, int, float, complex)):
        return f"{type(leaf).__name__} (a Python number)"
    if isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
        weak = ", weakly typed" if getattr(leaf, "weak_type", False) else ""
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]{weak}"
    return repr(leaf)


def signature(**trees: PyTree) -> Signature:
    """The signature of a call, its arguments by name."""
    return {path: describe(leaf) for path, leaf in _named(trees)}


def _named(trees: Mapping[str, PyTree]) -> Iterator[tuple[str, Any]]:
    for name, tree in trees.items():
        for path, leaf in flatten_with_paths(tree)[0]:
            yield join(name, path), leaf


def _abstract(leaf: Any) -> Any:
    """An array's type and place without its numbers, which may be gone; anything else itself.

    Where an array lies counts only if it was put there on purpose (is committed).
    """
    if isinstance(leaf, (np.ndarray, np.generic)):
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype)
    if not isinstance(leaf, jax.Array):
        return leaf
    placed = not isinstance(leaf, Tracer) and getattr(leaf, "committed", False)
    weak = bool(getattr(leaf, "weak_type", False))
    sharding = leaf.sharding if placed else None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=weak)


class Snapshot(NamedTuple):
    """A call as the compiler sees it.

    Attributes:
        trees: The arguments by name, arrays as `jax.ShapeDtypeStruct`s.
        leaves: What is in them, by path.
        settings: JAX's configuration.
    """

    trees: dict[str, PyTree]
    leaves: dict[str, Any]
    settings: dict[str, str]

    @staticmethod
    def of(**trees: PyTree) -> "Snapshot":
        """Takes one of arguments, which may have been donated by now."""
        abstract = {name: jax.tree.map(_abstract, tree) for name, tree in trees.items()}
        return Snapshot(abstract, dict(_named(abstract)), _settings())

    def distance(self, other: "Snapshot") -> int:
        """How many things differ, roughly: structures and settings count once each."""
        leaves = self.leaves.keys() | other.leaves.keys()
        pairs = ((self.leaves.get(p, _ABSENT), other.leaves.get(p, _ABSENT)) for p in leaves)
        count = sum(not _same(one, two) for one, two in pairs)
        count += sum(
            not same_structure(jax.tree.structure(self.trees[name]), jax.tree.structure(tree))
            for name, tree in other.trees.items()
        )
        return count + sum(self.settings[name] != other.settings[name] for name in self.settings)


_ABSENT = object()


def _same(one: Any, two: Any) -> bool:
    if not isinstance(one, jax.ShapeDtypeStruct) or not isinstance(two, jax.ShapeDtypeStruct):
        return same_static(one, two)
    return (
        one.shape == two.shape
        and one.dtype == two.dtype
        and one.weak_type == two.weak_type
        and same_place(one, two)
    )


def same_place(one: Any, two: Any) -> bool:
    """Whether two arrays of one shape lie alike."""
    if one.sharding is None or two.sharding is None:
        return one.sharding is two.sharding
    return one.sharding.is_equivalent_to(two.sharding, len(one.shape))


def _settings() -> dict[str, str]:
    values = {name: getattr(jax.config, name, None) for name in _SETTINGS}
    # Some are members of an enumeration.
    found = {name: str(getattr(value, "value", value)) for name, value in values.items()}
    mesh = jax.sharding.get_abstract_mesh()
    found["the mesh that is set"] = "none" if mesh is None or mesh.empty else str(mesh)
    return found
