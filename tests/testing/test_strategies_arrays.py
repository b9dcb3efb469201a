"""Arrays and keys that are drawn: every dtype, shape and value that was asked for, and no other."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from tests.testing.drawing import drawn

from treadle import ArgumentTypeError, ArgumentValueError
from treadle._compat import enable_x64
from treadle._diagnose import compilation_counter
from treadle.testing import arrays, keys

WIDE = {"int64", "uint64", "float64", "complex128"}
NUMPY = {f"{sign}int{size}" for sign in ("", "u") for size in (8, 16, 32, 64)}
NUMPY |= {"bool", "float16", "float32", "float64", "complex64", "complex128"}


def of_jax(wide):
    """The names of all dtypes that this JAX has arrays of."""
    narrow = {
        name for name in dir(ml_dtypes) if name.startswith(("bfloat", "float", "int", "uint"))
    }
    # Those of 6 bits and of 1 bit are of no device.
    narrow = {name for name in narrow if hasattr(jnp, name) and "float6" not in name}
    narrow -= {"int1", "uint1"}
    return narrow | NUMPY - (set() if wide else WIDE)


def reals(array):
    """The elements as float64, both parts of complex ones."""
    host = np.asarray(array).reshape(-1)
    if host.dtype.kind == "c":
        host = host.view(f"f{host.itemsize // 2}")
    with np.errstate(invalid="ignore"):  # Signalling NaNs.
        return host.astype(np.float64)


def smallest_normal(array):
    dtype = array.real.dtype if np.iscomplexobj(array) else array.dtype
    return float(ml_dtypes.finfo(dtype).smallest_normal)


def is_inexact(array):
    return jnp.issubdtype(array.dtype, jnp.inexact)


def unusual(array):
    """What is special in an array."""
    values = reals(array)
    found = set()
    if np.isnan(values).any():
        found.add("nan")
    if np.isinf(values).any():
        found.add("infinity")
    if ((values == 0) & np.signbit(values)).any():
        found.add("negative_zero")
    if is_inexact(array) and ((values != 0) & (np.abs(values) < smallest_normal(array))).any():
        found.add("subnormal")
    return found


def test_all_dtypes_of_jax_are_drawn():
    with enable_x64(True):
        found = {str(array.dtype) for array in drawn(arrays(shape=(0,)), 400)}
    assert found == of_jax(wide=True)
    found = {str(array.dtype) for array in drawn(arrays(shape=(0,)), 50)}
    assert found <= of_jax(wide=False)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("bool", {"bool"}),
        ("int", {"int8", "int16", "int32", "int4", "int2"}),
        ("uint", {"uint8", "uint16", "uint32", "uint4", "uint2"}),
        ("complex", {"complex64"}),
        ("bfloat16", {"bfloat16"}),
        (jnp.float16, {"float16"}),
        (np.dtype("int8"), {"int8"}),
        (["float32", "bool"], {"float32", "bool"}),
        (("complex", jnp.int32), {"complex64", "int32"}),
        (st.sampled_from(["uint8", jnp.bfloat16]), {"uint8", "bfloat16"}),
    ],
)
def test_a_dtype_a_word_a_list_or_a_strategy(dtype, expected):
    expected = {name for name in expected if name in of_jax(wide=False)}
    assert {str(array.dtype) for array in drawn(arrays(dtype, shape=()), 60)} == expected


def test_shapes_are_small_and_of_every_kind():
    shapes = [array.shape for array in drawn(arrays("bool"), 200)]
    assert {len(shape) for shape in shapes} == {0, 1, 2, 3, 4}
    assert 5 <= sum(0 in shape for shape in shapes) <= 60
    assert max(np.prod(shape) for shape in shapes) <= 24


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), {()}), ((2, 0), {(2, 0)}), (3, {(3,)}), (st.sampled_from([(2,), 5]), {(2,), (5,)})],
)
def test_a_shape_or_a_strategy(shape, expected):
    assert {array.shape for array in drawn(arrays("float32", shape), 30)} == expected


def test_nothing_is_special_unless_asked_for():
    assert not set().union(*map(unusual, drawn(arrays("inexact"), 200)))


EVERYTHING = {"nan", "infinity", "subnormal", "negative_zero"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_special_is_everything(dtype):
    found = drawn(arrays(dtype, shape=(2,), special=True), 80)
    assert set().union(*map(unusual, found)) == EVERYTHING


@pytest.mark.parametrize("name", sorted(EVERYTHING))
def test_one_special_thing_alone(name):
    found = drawn(arrays("float", shape=(2,), **{f"allow_{name}": True}), 40)
    assert set().union(*map(unusual, found)) == {name}
    found = drawn(arrays("float", shape=(2,), special=True, **{f"allow_{name}": False}), 80)
    assert set().union(*map(unusual, found)) == EVERYTHING - {name}


def test_nans_come_with_several_bits():
    found = drawn(arrays("float32", shape=(), allow_nan=True), 200)
    bits = {np.asarray(array).view(np.uint32)[()] for array in found if np.isnan(array)}
    assert {0x7FC00000, 0xFFC00000, 0x7FC00001} <= bits


def test_patterns_and_extremes():
    found = [np.asarray(array) for array in drawn(arrays("float32", shape=(3,)), 100)]
    listed = [array.tolist() for array in found]
    for pattern in ([0, 0, 0], [1, 1, 1], [0, 1, 2]):
        assert pattern in listed
    assert max(array.max() for array in found) == np.finfo(np.float32).max
    neat = [array for array in found if (array % 0.25 == 0).all()]
    assert 5 < len(neat) < 95


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint32"])
def test_integers_reach_both_ends(dtype):
    found = drawn(arrays(dtype, shape=(3,)), 100)
    info = np.iinfo(dtype)
    assert min(int(array.min()) for array in found) == info.min
    assert max(int(array.max()) for array in found) == info.max


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn", "int8", "int32"])
@pytest.mark.parametrize(("low", "high"), [(0.3, 2.4), (1, None), (None, -0.1), (-3, -3)])
def test_bounds_hold(dtype, low, high):
    strategy = arrays(dtype, min_value=low, max_value=high, allow_negative_zero=True)
    for array in drawn(strategy, 40):
        values = reals(array)
        assert low is None or (values >= low).all()
        assert high is None or (values <= high).all()


def test_bounds_exclude_infinity_on_their_side():
    strategy = arrays("float32", shape=(3,), min_value=0, allow_infinity=True)
    found = np.concatenate([reals(array) for array in drawn(strategy, 200)])
    assert np.isposinf(found).any()
    assert not np.isneginf(found).any()


def test_weak_types_on_request():
    found = drawn(arrays(["float32", "int32", "bool"], allow_weak=True), 100)
    weak = {str(array.dtype) for array in found if array.weak_type}
    strong = {str(array.dtype) for array in found if not array.weak_type}
    assert weak == {"float32", "int32"}
    assert strong == {"float32", "int32", "bool"}
    assert not any(array.weak_type for array in drawn(arrays("float32"), 50))


def test_numpy_arrays_on_request():
    assert all(type(array) is np.ndarray for array in drawn(arrays(kind="numpy"), 30))
    kinds = {isinstance(array, jax.Array) for array in drawn(arrays(kind="any"), 30)}
    assert kinds == {True, False}
    (array, *_) = drawn(arrays("float64", kind="numpy"), 3)
    assert array.dtype == np.float64


def test_the_first_array_is_zeros_wherever_there_is_a_zero():
    (array, *_) = drawn(arrays("float8_e4m3fn", (2,)), 3)
    assert not np.asarray(array).astype(float).any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dtype": "flaot"}, ArgumentTypeError, r"`dtype` \(='flaot'\) is no dtype.*'inexact'"),
        ({"dtype": []}, ArgumentValueError, "`dtype` is empty"),
        ({"dtype": jax.random.key(0).dtype}, ArgumentValueError, r"treadle\.testing\.keys\(\)"),
        ({"dtype": "datetime64[s]"}, ArgumentValueError, "a dtype that JAX does not have"),
        ({"shape": "ab"}, ArgumentTypeError, r"`shape` \(='ab'\) must be a tuple"),
        ({"shape": (2, -1)}, ArgumentValueError, "has a negative size"),
        ({"shape": ""}, ArgumentTypeError, r"`shape` \(=''\) must be a tuple"),
        ({"shape": (True,)}, ArgumentTypeError, r"`shape` \(=\(True,\)\) must be a tuple"),
        ({"dtype": ">f4"}, ArgumentValueError, r"`dtype` \(='>f4'\) is a dtype that JAX does not"),
        ({"dtype": np.longdouble, "kind": "numpy"}, ArgumentValueError, "that JAX does not have"),
        ({"kind": "tensor"}, ArgumentValueError, r"`kind` \(='tensor'\) must be one of"),
        ({"min_value": 2, "max_value": 1}, ArgumentValueError, "is above `max_value`"),
        ({"max_value": np.inf}, ArgumentValueError, "must be finite"),
        ({"max_value": "1"}, ArgumentTypeError, r"`max_value` \(='1'\) must be a number"),
        ({"max_value": np.complex64(1)}, ArgumentTypeError, "must be a number, or None"),
        ({"max_value": 10**400}, ArgumentValueError, "must be finite, and not beyond all floats"),
    ],
)
def test_wrong_arguments_are_told_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        arrays(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int64"}, r"needs 64 bits.*kind='numpy'"),
        ({"dtype": "uint8", "min_value": 300}, "uint8 has no number between"),
        ({"dtype": "int32", "min_value": 0.1, "max_value": 0.9}, "int32 has no number between"),
    ],
)
def test_what_cannot_be_drawn_is_told_when_drawing(arguments, message):
    with pytest.raises(ArgumentValueError, match=message):
        drawn(arrays(shape=(2,), **arguments), 5)


# -- keys -----------------------------------------------------------------------------------------


def test_keys_are_of_every_implementation():
    found = drawn(keys(), 60)
    assert {key.shape for key in found} == {()}
    names = {str(jax.random.key_impl(key)) for key in found}
    assert names == {"threefry2x32", "rbg", "unsafe_rbg"}
    assert len({np.asarray(jax.random.key_data(key)).tobytes() for key in found}) > 20


def test_a_key_is_that_of_its_seed():
    for key in drawn(keys(), 40):
        words = np.asarray(jax.random.key_data(key))
        again = jax.random.key(int(words[-1]), impl=str(jax.random.key_impl(key)))
        np.testing.assert_array_equal(words, jax.random.key_data(again))


def test_arrays_of_keys_hold_different_ones():
    for found in drawn(keys(shape=(2, 2), impl="rbg"), 10):
        assert found.shape == (2, 2)
        words = np.asarray(jax.random.key_data(found)).reshape(4, 4)
        assert len(np.unique(words, axis=0)) == 4
    assert {found.shape for found in drawn(keys(shape=st.sampled_from([(), (0,)])), 20)} == {
        (),
        (0,),
    }


def test_wrong_arguments_of_keys():
    with pytest.raises(ArgumentValueError, match=r"`impl` \(='philox'\) must be one of"):
        keys(impl="philox")
    with pytest.raises(ArgumentTypeError, match=r"`shape` \(=2.5\) must be a tuple"):
        keys(shape=2.5)


def test_drawing_arrays_and_keys_compiles_nothing():
    strategy = st.tuples(arrays(special=True, allow_weak=True), keys(shape=(2,)))
    before = compilation_counter().count
    drawn(strategy, 50)
    assert compilation_counter().count == before
