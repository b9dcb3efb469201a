"""`check_structure`: what goes over the leaves of a model."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from treadle.testing import arrays, check_structure, modules, pool, pytrees

from ._subject import Subject
from ._trees import is_array, is_float, is_none, is_numpy, nodes, on

_TREES = pytrees(special=True)


def _without_bias(tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: None if getattr(path[-1], "name", "") == "bias" else leaf, tree
    )


def _compiled(leaf: Any) -> Any:
    return jax.jit(leaf)


def _broken(name: str, f: Callable[[Any], Any], strategy: Any = _TREES) -> Subject:
    return Subject("check_structure", name, strategy, lambda tree: check_structure(f, tree))


SUBJECTS = (
    _broken("floats to 0", on(is_float, jnp.zeros_like))._replace(right=True),
    _broken(
        "NumPy's own arithmetic on NumPy arrays",
        on(is_numpy, lambda x: np.negative(x) if x.dtype.kind in "fc" else x),
    )._replace(right=True),
    _broken(
        "numbers that are no arrays count up",
        on(lambda leaf: type(leaf) is int, lambda n: n + 1),
    )._replace(right=True),
    _broken(
        "halves are computed in float32",
        on(is_float, lambda x: x * jnp.float32(0.5)),
        pytrees(arrays(["float16", "bfloat16", "float32"])),
    ),
    _broken("axes of size 1 are lost", on(is_array, jnp.squeeze)),
    _broken(
        "the leading axis is averaged away", on(is_float, lambda x: x.mean(0) if x.ndim > 1 else x)
    ),
    _broken("the last axis is one shorter", on(is_float, lambda x: x[..., 1:] if x.ndim else x)),
    _broken(
        "scalars become weak",
        on(
            lambda leaf: is_array(leaf) and leaf.dtype == jnp.float32,
            lambda x: x if x.ndim else pool.weak(x),
        ),
    ),
    _broken("NumPy arrays become JAX's", on(is_numpy, jax.device_put)),
    _broken("True becomes 1", on(lambda leaf: isinstance(leaf, bool), int)),
    _broken("None becomes 0", on(is_none, lambda _: 0)),
    _broken("a bias is dropped", _without_bias, modules()),
    _broken("named tuples become tuples", nodes(pool.Point, tuple), pytrees(modules=False)),
    _broken("functions are compiled", on(lambda leaf: callable(leaf), _compiled), modules()),
    _broken(
        "a static field is emptied", nodes(pool.Labelled, lambda node: pool.Labelled(node.value))
    ),
    _broken("a list is sorted into a tuple", nodes(list, tuple)),
)
