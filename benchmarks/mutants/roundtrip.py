"""`check_roundtrip`: a tree as a dictionary of its leaves, and back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from treadle.testing import arrays, check_roundtrip, keys, modules, pool, pytrees
from treadle.tree import from_dict, paths, to_dict

from ._subject import Subject
from ._trees import (
    is_array,
    is_float,
    is_integer,
    is_key,
    is_none,
    is_numpy,
    is_numpy_float,
    nodes,
    on,
)

_TREES = pytrees(special=True)


class _Flat(NamedTuple):
    leaves: dict[str, Any]
    structure: Any


def _there(tree: Any) -> _Flat:
    leaves, structure = jax.tree.flatten(tree)
    return _Flat(dict(zip(paths(tree), leaves, strict=True)), structure)


def _back(flat: _Flat) -> Any:
    return jax.tree.unflatten(flat.structure, list(flat.leaves.values()))


def _by_name(flat: _Flat) -> Any:
    return jax.tree.unflatten(flat.structure, [flat.leaves[name] for name in sorted(flat.leaves)])


def _without_empty(tree: Any) -> _Flat:
    flat = _there(tree)
    filled = {
        name: leaf for name, leaf in flat.leaves.items() if not is_array(leaf) or leaf.size > 0
    }
    return flat._replace(leaves=filled)


def _made_anew(like: Any) -> Callable[[_Flat], Any]:
    def back(flat: _Flat) -> Any:
        leaves = [flat.leaves.get(name, jnp.zeros(0)) for name in paths(like)]
        return jax.tree.unflatten(flat.structure, leaves)

    return back


def _doubled_in_place(tree: Any) -> Any:
    for leaf in jax.tree.leaves(tree):
        if is_numpy_float(leaf):
            leaf *= 2
    return tree


def _scalar(leaf: Any) -> Any:
    return jnp.asarray(leaf.item()) if leaf.ndim == 0 else leaf


def _lacks_in_numpy(leaf: Any) -> bool:
    return is_float(leaf) and leaf.dtype.kind == "V"


def _default_key(key: Any) -> Any:
    return jax.random.wrap_key_data(jax.random.key_data(key)[..., :2], impl="threefry2x32")


def _broken(
    name: str,
    f: Callable[[Any], Any] = _there,
    g: Callable[[Any], Any] = _back,
    strategy: Any = _TREES,
) -> Subject:
    return Subject("check_roundtrip", name, strategy, lambda tree: check_roundtrip(f, g, tree))


def _leaves(
    name: str, kind: Callable[[Any], bool], function: Callable[[Any], Any], strategy: Any = _TREES
) -> Subject:
    """Broken in what becomes of leaves of a kind."""
    return _broken(name, g=lambda flat: on(kind, function)(_back(flat)), strategy=strategy)


SUBJECTS = (
    _broken("leaves by path, and back")._replace(right=True),
    Subject(
        "check_roundtrip",
        "to_dict and from_dict",
        modules(special=True),
        lambda tree: check_roundtrip(to_dict, lambda flat: from_dict(flat, tree), tree),
        right=True,
    ),
    _broken("leaves come back in the order of their names", g=_by_name),
    Subject(
        "check_roundtrip",
        "empty arrays are skipped, and made anew in float32",
        _TREES,
        lambda tree: check_roundtrip(_without_empty, _made_anew(tree), tree),
    ),
    _leaves("NaN comes back as 0", is_float, lambda x: jnp.where(jnp.isnan(x), 0, x)),
    _leaves("-0.0 comes back as 0.0", is_float, lambda x: jnp.where(x == 0, 0, x)),
    _leaves(
        "integers go through float32",
        is_integer,
        lambda x: x.astype("float32").astype(x.dtype),
        pytrees(dtype=["int32", "uint32"]),
    ),
    _leaves(
        "floats that NumPy lacks come back in float32",
        _lacks_in_numpy,
        lambda x: x.astype("float32"),
    ),
    _leaves("scalars go through Python numbers, and are weak", is_array, _scalar),
    _leaves(
        "keys come back with the default implementation", is_key, _default_key, pytrees(keys())
    ),
    _leaves("True comes back as 1", lambda leaf: isinstance(leaf, bool), int),
    _leaves("NumPy arrays come back as JAX's", is_numpy, jax.device_put),
    _broken("None comes back as 0", g=lambda flat: on(is_none, lambda _: 0)(_back(flat))),
    _broken("tuples come back as lists", g=lambda flat: nodes(tuple, list)(_back(flat))),
    _broken(
        "a static field comes back as its default",
        g=lambda flat: nodes(pool.Labelled, lambda node: pool.Labelled(node.value))(_back(flat)),
    ),
    _broken(
        "NumPy arrays are doubled in place, and halved again",
        _doubled_in_place,
        on(is_numpy_float, lambda x: (x / 2).astype(x.dtype)),
        pytrees(arrays("float", kind="any")),
    ),
)
