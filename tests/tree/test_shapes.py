from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from treadle.tree import count, from_dict, nbytes, paths, shapes, to_dict


class Layer(eqx.Module):
    weight: Any
    activation: Any = np.tanh
    size: int = eqx.field(static=True, default=3)


def test_arrays_become_shapes_and_the_rest_stays():
    tree = {"n": np.zeros((2, 3), np.float64), "l": [Layer(np.zeros(0, np.int8)), None, "x", 0.5]}
    found = shapes(tree)
    assert jax.tree.structure(found) == jax.tree.structure(tree)
    assert to_dict(found) == {
        "l/0/weight": jax.ShapeDtypeStruct((0,), np.int8),
        "l/0/activation": np.tanh,
        "l/2": "x",
        "l/3": 0.5,
        "n": jax.ShapeDtypeStruct((2, 3), np.float64),
    }
    assert (count(found), nbytes(found)) == (count(tree), nbytes(tree)) == (6, 48)


def test_every_kind_of_array():
    for leaf in (jnp.zeros((2,), jnp.bfloat16), jnp.zeros(()), jax.random.key(0)):
        found = shapes([leaf])[0]
        assert type(found) is jax.ShapeDtypeStruct
        assert (found.shape, found.dtype) == (leaf.shape, leaf.dtype)
    struct = jax.ShapeDtypeStruct((2,), "float32", weak_type=True)
    assert shapes((struct, np.float32(1))) == (struct, np.float32(1))
    assert shapes((struct,))[0] is struct
    assert shapes(np.zeros((), jax.dtypes.float0)).dtype == jax.dtypes.float0


def test_works_while_tracing_and_stands_where_shapes_count():
    tree = {"w": np.ones((3, 2), np.float32), "n": 4}
    seen = []
    jax.eval_shape(jax.vmap(lambda w: seen.append(shapes({"w": w, "n": 4}))), tree["w"])
    assert seen == [{"w": jax.ShapeDtypeStruct((2,), np.float32), "n": 4}]
    assert from_dict(to_dict(tree), shapes(tree)) == tree
    assert paths(shapes(tree)) == paths(tree)
    assert jax.eval_shape(lambda w: w.T, shapes(tree)["w"]).shape == (2, 3)
