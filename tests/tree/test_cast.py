from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import exactly

from treadle._compat import enable_x64
from treadle._errors import ArgumentTypeError, ArgumentValueError, TreeError
from treadle.tree import cast, select, to_dict


class Layer(eqx.Module):
    weight: Any
    rate: Any = 0.5
    size: int = eqx.field(static=True, default=3)


def dtypes_of(tree):
    return {path: str(leaf.dtype) for path, leaf in to_dict(tree).items()}


def test_what_is_shared_stays_shared():
    for array in (jnp.ones(2), np.ones(2)):
        out = cast({"a": array, "b": array, "c": [array]}, "float16")
        assert out["a"] is out["b"] is out["c"][0]
        out = cast({"a": array, "b": array, "c": [array]}, "float16", where=("a", "c/**"))
        assert out["a"] is out["c"][0]
        assert out["b"] is array


def test_real_floating_point_arrays_are_cast_and_nothing_else():
    key = jax.random.key(0)
    same = {
        "int": np.arange(3),
        "bool": np.array([True]),
        "complex": np.ones(2, np.complex64),
        "key": key,
        "word": "x",
        "rate": 0.1,
        "none": None,
        "call": np.tanh,
        "int4": np.ones(2, ml_dtypes.int4),
        "gradient": np.zeros(2, jax.dtypes.float0),
    }
    tree = {"layers": [Layer(np.ones((2, 1), np.float32)), Layer(np.ones(2, np.float64))], **same}
    out = cast(tree, jnp.bfloat16)
    assert jax.tree.structure(out) == jax.tree.structure(tree)
    for name, leaf in same.items():
        assert out[name] is leaf
    for was, now in zip(tree["layers"], out["layers"], strict=True):
        assert type(now.weight) is np.ndarray
        assert (now.weight.dtype, now.weight.shape) == (jnp.bfloat16, was.weight.shape)
        assert now.rate == 0.5
        assert now.size == 3


def test_what_has_the_format_already_is_the_very_same():
    struct = jax.ShapeDtypeStruct((2,), "float32")
    tree = [np.ones(2, np.float32), jnp.ones(2), np.float32(1), struct]
    assert all(a is b for a, b in zip(cast(tree, "float32"), tree, strict=True))


def test_arrays_stay_of_their_kind():
    struct = jax.ShapeDtypeStruct(
        (2, 3), "float32", sharding=jax.sharding.SingleDeviceSharding(jax.devices()[1])
    )
    out = cast([jnp.ones(2), np.ones(2), np.float64(1.5), struct], "float16")
    assert [type(leaf) for leaf in out[1:3]] == [np.ndarray, np.float16]
    assert isinstance(out[0], jax.Array)
    assert [str(leaf.dtype) for leaf in out] == ["float16"] * 4
    assert (out[3].shape, out[3].sharding) == (struct.shape, struct.sharding)


def test_a_weak_type_becomes_a_common_one():
    weak = jnp.asarray(1.0)
    struct = jax.ShapeDtypeStruct((2,), "float32", weak_type=True)
    for leaf in (weak, struct):
        for dtype in ("float32", "float16"):
            out = cast(leaf, dtype)
            assert leaf.weak_type
            assert not out.weak_type
            assert (out.shape, out.dtype) == (leaf.shape, dtype)


def test_where_chooses():
    tree = {"a": np.ones(2, np.float32), "b": [Layer(np.ones(1, np.float32)), np.arange(2)]}
    halved = {"b/0/weight": "float16"}
    for where in (select("b/**"), "b/**", ["b/0/*", "b/1"], {"a": False, "b": True}):
        out = cast(tree, "float16", where=where)
        assert out["a"] is tree["a"]
        assert out["b"][1] is tree["b"][1]
        assert str(out["b"][0].weight.dtype) == halved["b/0/weight"]
    out = cast(tree, "float16", lambda leaf: eqx.is_array(leaf) and leaf.size == 2)
    assert (str(out["a"].dtype), str(out["b"][0].weight.dtype)) == ("float16", "float32")
    with pytest.raises(TreeError, match="The glob 'c' matches none"):
        cast(tree, "float16", "c")
    with pytest.raises(ArgumentTypeError, match="`where` holds 3"):
        cast(tree, "float16", 3)


def numbers_of(dtype):
    """All finite numbers of a small format, in order."""
    width = np.dtype(dtype).itemsize
    every = np.arange(2 ** (8 * width), dtype=f"u{width}").view(dtype)
    with np.errstate(invalid="ignore"):
        every = every.astype(np.float64)
    return np.unique(every[np.isfinite(every)])


FORMATS = {
    dtype: numbers_of(dtype) for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2)
}


@given(st.lists(st.floats(width=32), max_size=4))
def test_numbers_are_rounded_to_the_nearest(values):
    array = np.array(values, np.float32)
    for dtype, every in FORMATS.items():
        out = cast({"x": array}, dtype)["x"]
        for was, now in zip(array.astype(np.float64), out.astype(np.float64), strict=True):
            if np.isinf(now) and np.isfinite(was):
                assert abs(was) >= every[-1] + (every[-1] - every[-2]) / 2
                assert (now > 0) == (was > 0)
            elif np.isfinite(now):
                at = np.searchsorted(every, was)
                assert abs(now - was) == np.abs(every[max(at - 1, 0) : at + 1] - was).min()
            else:
                np.testing.assert_equal(now, was)


def test_what_the_format_does_not_reach():
    wide = np.array([1e30, -1e30, np.inf, np.nan], np.float32)
    for leaf in (wide, jnp.asarray(wide)):
        half, eight, four = (
            np.asarray(cast(leaf, dtype)).astype(np.float32)
            for dtype in ("float16", "float8_e4m3fn", "float4_e2m1fn")
        )
        np.testing.assert_equal(half, [np.inf, -np.inf, np.inf, np.nan])
        assert np.isnan(eight).all()
        np.testing.assert_equal(four[:3], [6, -6, 6])


def test_float64_where_jax_has_it():
    tree = {"x": np.ones(2, np.float32)}
    with enable_x64(True):
        assert cast(tree, "float64")["x"].dtype == np.float64
    message = (
        "`dtype` (='float64') needs float64, which JAX has switched off: "
        "`jax.config.update('jax_enable_x64', True)` before anything else."
    )
    with pytest.raises(ArgumentValueError, match=exactly(message)):
        cast(tree, "float64")


@pytest.mark.parametrize("dtype", ["int32", bool, None, jnp.complex64, ">f4", np.longdouble, "U3"])
def test_what_is_no_format_of_floats_is_refused(dtype):
    message = (
        f"`dtype` (={dtype!r}) must be a floating-point dtype of JAX's, such as `jnp.bfloat16`: "
        "only arrays of real floating-point numbers are cast."
    )
    with pytest.raises(ArgumentValueError, match=exactly(message)):
        cast({"x": np.ones(2)}, dtype)


@pytest.mark.parametrize("dtype", ["flaot32", 3, jax.ShapeDtypeStruct])
def test_what_is_no_dtype_is_refused(dtype):
    message = f"`dtype` (={dtype!r}) is no dtype: give one such as `jnp.bfloat16` or 'float32'."
    if dtype is jax.ShapeDtypeStruct:
        dtype = object()
        message = message.replace(repr(jax.ShapeDtypeStruct), repr(dtype))
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        cast({"x": np.ones(2)}, dtype)


def test_formats_are_named_in_many_ways():
    for dtype in (jnp.bfloat16, "bfloat16", np.dtype(ml_dtypes.bfloat16), ml_dtypes.bfloat16):
        assert cast(np.ones(2), dtype).dtype == jnp.bfloat16


def test_works_while_tracing():
    out = jax.eval_shape(lambda t: cast(t, "float16", "w"), {"w": np.ones(2), "v": np.ones(2)})
    assert dtypes_of(out) == {"w": "float16", "v": "float32"}
    out = jax.eval_shape(jax.vmap(lambda w: cast(w, "float16")), np.ones((2, 3), np.float32))
    assert (out.shape, out.dtype) == ((2, 3), np.float16)
