import re
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
from tests.tree.containers import Point

from treadle._compat import enable_x64
from treadle._errors import ArgumentTypeError, ArgumentValueError, TreeError
from treadle.tree import ema


class Layer(eqx.Module):
    weight: Any
    rate: Any = 0.5
    size: int = eqx.field(static=True, default=3)


def bits(array):
    array = np.asarray(array)
    return array.dtype, array.shape, array.tobytes()


finite = st.floats(-(2.0**60), 2.0**60, width=32)
decays = st.sampled_from([0.0, 0.5, 0.9, 0.999, 0.99999, 1.0]) | st.floats(0, 1)


@given(st.lists(st.tuples(finite, finite), max_size=4), decays)
def test_the_average_of_numbers(pairs, decay):
    old, new = np.array(pairs, np.float64).reshape(-1, 2).T
    exact = decay * old + (1 - decay) * new
    error = 4 * np.finfo(np.float32).eps * (np.abs(old) + np.abs(new)) + 1e-36
    for dtype, factor in ((np.float64, 1e-8), (np.float32, 1.0)):
        out = ema(old.astype(dtype), new.astype(dtype), decay)
        assert type(out) is np.ndarray
        assert out.dtype == dtype
        assert (np.abs(out - exact) <= error * factor + (factor < 1) * 1e-36).all()


@given(st.lists(st.floats(width=32), max_size=4), st.lists(st.floats(width=32), max_size=4), decays)
def test_ends_and_equal_numbers_are_bit_for_bit(one, two, decay):
    size = min(len(one), len(two))
    old, new = (np.array(values[:size], np.float32) for values in (one, two))
    assert bits(ema(old, new, 0)) == bits(new)
    assert bits(ema(old, new, 1)) == bits(old)
    with np.errstate(invalid="ignore"):
        nan = np.isnan(ema(old, old, decay))
    assert (nan == np.isnan(old)).all()
    assert bits(ema(old, old, decay)[~nan]) == bits(old[~nan])


def test_infinities_stay_and_may_come():
    old = np.array([np.inf, -np.inf, 1, np.inf, -np.inf], np.float32)
    new = np.array([np.inf, -np.inf, np.inf, 1, np.inf], np.float32)
    out = ema(old, new, 0.9)
    np.testing.assert_equal(out, [np.inf, -np.inf, np.inf, np.inf, np.nan])


@pytest.mark.parametrize("dtype", ["float32", "float16", "float8_e4m3fn"])
def test_numbers_that_are_far_apart_have_an_average_between_them(dtype):
    largest = ml_dtypes.finfo(dtype).max
    for make in (np.asarray, jnp.asarray):
        old = make(np.asarray([largest, largest]).astype(dtype))
        out = np.asarray(ema(old, -old, 0.75), np.float32)
        np.testing.assert_allclose(out, np.float32(largest) / 2, rtol=ml_dtypes.finfo(dtype).eps)


def test_zeros_of_both_signs_at_both_ends():
    for make in (np.asarray, jnp.asarray):
        old, new = make(np.float32([-0.0, 0.0])), make(np.float32([0.0, -0.0]))
        assert bits(ema(old, new, 1)) == bits(old)
        assert bits(ema(old, new, 0)) == bits(new)


@pytest.mark.parametrize("decay", [0.0, 0.25, 1.0])
def test_derivatives_are_those_of_the_formula_also_where_the_result_is_told_exactly(decay):
    old, new = jnp.float32([1, 2, 0]), jnp.float32([1, 3, -0.0])

    def by(*arguments):
        return jax.jacobian(ema, argnums=tuple(range(3)))(*arguments)

    of_old, of_new, of_decay = by(old, new, jnp.float32(decay))
    np.testing.assert_allclose(of_old, decay * np.eye(3))
    np.testing.assert_allclose(of_new, (1 - decay) * np.eye(3))
    np.testing.assert_allclose(of_decay, old - new)


def test_what_is_shared_in_both_is_shared_in_the_average():
    for one, two in ((jnp.zeros(2), jnp.ones(2)), (np.zeros(2), np.ones(2))):
        out = ema({"a": one, "b": one, "c": one}, {"a": two, "b": two, "c": two + 1}, 0.5)
        assert out["a"] is out["b"]
        np.testing.assert_array_equal(out["c"], [1, 1])


def test_shapes_have_the_shapes_of_the_old():
    struct = jax.ShapeDtypeStruct((2,), "float32")
    assert ema([struct], [jax.ShapeDtypeStruct((2,), "bfloat16")], 0.5) == [struct]
    for one, two in ((struct, jnp.ones(2)), (jnp.ones(2), struct)):
        with pytest.raises(TreeError, match=r"`old` and `new` do not fit each other: 'w' is"):
            ema({"w": one}, {"w": two}, 0.5)


def test_static_fields_may_be_arrays():
    one, two = (Point(jnp.ones(2), None, np.arange(3)) for _ in range(2))
    np.testing.assert_array_equal(ema(one, two, 0.5).x, [1, 1])
    message = (
        "`old` and `new` do not fit each other: a static field, or the keys of a dictionary, "
        "differ at '0': print `treadle.tree.diff` of them."
    )
    with pytest.raises(TreeError, match=exactly(message)):
        ema([one], [Point(jnp.ones(2), None, np.arange(1, 4))], 0.5)


def test_one_hundred_steps_are_the_weighted_sum():
    values = np.random.default_rng(0).normal(size=(101, 3))
    average = values[0]
    for value in values[1:]:
        average = ema(average, value, 0.97)
    weights = np.concatenate([[0.97**100], 0.03 * 0.97 ** np.arange(99, -1, -1)])
    np.testing.assert_allclose(average, weights @ values, rtol=1e-12)


def test_small_steps_are_exact_in_float32():
    # 1 - 0.9999 in float32 is off by 0.0002 of itself.
    old, new = np.zeros(1, np.float32), np.ones(1, np.float32)
    assert ema(old, new, 0.9999)[0] == np.float32(1e-4)
    assert np.asarray(ema(jnp.asarray(old), new, 0.9999))[0] == np.float32(1e-4)


def test_the_format_and_the_place_are_those_of_the_old():
    half, single = np.zeros(2, ml_dtypes.bfloat16), np.ones(2, np.float32)
    assert bits(ema(single, half, 0.75)) == bits(np.full(2, 0.75, np.float32))
    assert bits(ema(half, single, 0.75)) == bits(np.full(2, 0.25, ml_dtypes.bfloat16))
    # On the host 64 bits stay 64.
    double = np.full(2, 1 + 2.0**-40)
    out = ema(double, jnp.ones(2), 0.5)
    assert type(out) is np.ndarray
    assert bits(out) == bits(np.full(2, 1 + 2.0**-41))
    out = ema(jnp.ones(2), np.zeros(2), 0.5)
    assert isinstance(out, jax.Array)
    assert bits(out) == bits(np.full(2, 0.5, np.float32))


def test_complex_numbers_and_eight_bits():
    old, new = np.array([1 + 1j], np.complex64), np.array([3 - 1j], np.complex64)
    assert bits(ema(old, new, 0.5)) == bits(np.array([2 + 0j], np.complex64))
    old, new = np.ones(2, ml_dtypes.float8_e4m3fn), np.zeros(2, ml_dtypes.float8_e4m3fn)
    assert bits(ema(old, new, 0.5)) == bits(np.full(2, 0.5, ml_dtypes.float8_e4m3fn))


def test_arrays_without_axes_and_without_elements():
    assert bits(ema(np.array(1.0), np.array(0.0), 0.25)) == bits(np.array(0.25))
    assert bits(ema(np.zeros((0, 2)), np.zeros((0, 2)), 0.25)) == bits(np.zeros((0, 2)))


def test_what_is_not_averaged_is_that_of_the_new():
    def tree(number):
        return {
            "layer": Layer(np.full(2, float(number)), rate=number),
            "count": np.array([number]),
            "flag": np.array(number > 0),
            "key": jax.random.wrap_key_data(np.array([0, number], np.uint32)),
            "call": [abs, max][number],
            "scalar": np.float32(number),
            "none": None,
        }

    old, new = tree(0), tree(1)
    out = ema(old, new, 0.75)
    assert jax.tree.structure(out) == jax.tree.structure(old)
    assert bits(out["layer"].weight) == bits(np.full(2, 0.25))
    assert out["layer"].rate == 1
    for name in ("count", "flag", "key", "call", "scalar"):
        assert out[name] is new[name]
    # A counter may become a wider one.
    assert ema({"n": np.zeros(2, np.int8)}, {"n": np.ones(2, int)}, 0.5)["n"].dtype == int


@pytest.mark.parametrize(
    "decay", [0.25, np.float32(0.25), np.array(0.25), jnp.asarray(0.25), ml_dtypes.bfloat16(0.25)]
)
def test_a_decay_may_be_any_real_number(decay):
    assert ema(np.ones(1), np.zeros(1), decay) == 0.25


@pytest.mark.parametrize("decay", [0, 1, True, np.int8(1), np.array(1), jnp.asarray(0)])
def test_whole_numbers_are_decays_too(decay):
    assert ema(np.ones(1), np.zeros(1), decay) == int(decay)


def test_a_decay_may_be_traced():
    @jax.jit
    def average(old, new, decay):
        return ema({"a": old, "b": host}, {"a": new, "b": host - 1}, decay)

    host = np.ones(2, np.float32)
    out = average(jnp.zeros(2), jnp.ones(2), 0.75)
    np.testing.assert_allclose(out["a"], 0.25)
    np.testing.assert_allclose(out["b"], 0.75)
    np.testing.assert_array_equal(average(jnp.zeros(2), jnp.ones(2), 1.0)["a"], 0)
    np.testing.assert_array_equal(average(jnp.zeros(2), jnp.ones(2), 0.0)["a"], 1)


def test_works_while_tracing_also_with_numpy_arrays_and_64_bits():
    out = jax.eval_shape(lambda new: ema(np.zeros(2, np.float32), new, 0.5), jnp.ones(2))
    assert (out.shape, out.dtype) == ((2,), np.float32)
    with enable_x64(True):
        out = jax.eval_shape(lambda new: ema(np.zeros(2), new, 0.5), np.ones(2))
        assert out.dtype == np.float64
    batched = jax.eval_shape(
        jax.vmap(lambda old, new: ema(old, new, 0.5)), np.ones((3, 2)), np.ones((3, 2))
    )
    assert batched.shape == (3, 2)


def test_trees_that_do_not_fit_are_told():
    old = {"w": np.zeros(2), "b": np.zeros(1), "f": abs, "n": np.zeros(2, int)}

    def refused(new, told):
        message = exactly(f"`old` and `new` do not fit each other: {told}.")
        with pytest.raises(TreeError, match=message):
            ema(old, new, 0.5)

    # Leaves that are not averaged may differ, and are not named.
    refused(
        {**old, "w": np.zeros(3), "f": max, "n": 5},
        "'w' is float64[2] in `old` and float64[3] in `new`",
    )
    refused({**old, "w": 1.0}, "'w' is float64[2] in `old` and 1.0 in `new`")
    refused({**old, "f": np.zeros(2)}, "'f' is <abs> in `old` and float64[2] in `new`")
    refused({**old, "w": np.zeros(2, int)}, "'w' is float64[2] in `old` and int64[2] in `new`")
    refused(
        {**old, "w": np.zeros(2, complex)},
        "'w' is float64[2] in `old` and complex128[2] in `new`",
    )
    refused({**old, "n": np.zeros(3, int)}, "'n' is int64[2] in `old` and int64[3] in `new`")
    refused(
        {"w": np.zeros(2), "x": 1, "y": 2, "z": 3, "q": 4},
        "only `old` has 'b', 'f', 'n'; only `new` has 'q', 'x', 'y', and 1 more",
    )
    old = [np.zeros(2)]
    refused((np.zeros(2),), "a container is a list in `old` and a tuple in `new`")


def test_what_is_no_decay_is_refused():
    array = np.ones(1)
    for decay in ("0.5", None, 0.5j, [0.5], np.array(0.5j), np.array("0.5"), jax.random.key(0)):
        message = f"`decay` (={decay!r}) must be a number from 0 to 1, such as 0.999."
        with pytest.raises(ArgumentTypeError, match=exactly(message)):
            ema(array, array, decay)
    for decay in (-0.1, 1.0000001, np.nan, np.inf):
        message = f"`decay` (={decay!r}) must be from 0 to 1, such as 0.999."
        with pytest.raises(ArgumentValueError, match=exactly(message)):
            ema(array, array, decay)
    message = "`decay` must be one number, not an array of shape (1,)."
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        ema(array, array, np.array([0.5]))
    with pytest.raises(ArgumentTypeError, match=re.escape(message)):
        jax.eval_shape(lambda decay: ema(array, array, decay), np.array([0.5]))
