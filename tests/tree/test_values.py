import collections
import dataclasses
import fractions
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.tree._values import Deviation, deviation, host, same_static

NAN = float("nan")


# -- things beside arrays -------------------------------------------------------------------------


class Named(tuple):
    pass


@dataclasses.dataclass
class Elementwise:
    """Its `==` is by element."""

    values: tuple

    def __eq__(self, other):
        return np.array(self.values) == np.array(other.values)


Pair = collections.namedtuple("Pair", "a b")

SAME = [
    (1, 1),
    (NAN, -NAN),
    (0.0, 0.0),
    (complex(NAN, 1), complex(NAN, 1)),
    (np.float32(NAN), np.float32(NAN)),
    (np.float16(1), np.float16(1)),
    ((NAN, [NAN]), (NAN, [NAN])),
    ([], []),
    ({"a": NAN, "b": 1}, {"b": 1, "a": NAN}),
    (Pair(NAN, 1), Pair(NAN, 1)),
    (np.array([1, NAN]), np.array([1, NAN])),
    (np.array(["a"]), np.array(["a"])),
    (np.zeros((0, 2)), np.zeros((0, 2))),
    (Elementwise((1, 2)), Elementwise((1, 2))),
    (collections.OrderedDict(a=1), collections.OrderedDict(a=1)),
    ("a", "a"),
    (None, None),
    (max, max),
    ({1, 2}, {2, 1}),
    (fractions.Fraction(1, 2), fractions.Fraction(2, 4)),
]

DIFFERENT = [
    (1, 2),
    (1, 1.0),
    (1, True),
    (0.0, -0.0),
    (0j, complex(0, -0.0)),
    (1.0, np.float64(1)),
    (np.float32(1), np.float64(1)),
    (np.float32(0), np.float32(-0.0)),
    (np.int8(1), np.int8(2)),
    (NAN, 1.0),
    ((1, 2), (1, True)),
    ((1, 2), (1, 2, 3)),
    ((1, 2, 3), (1, 2)),
    ((1,), [1]),
    ((1,), Named((1,))),
    ([(0.0,)], [(-0.0,)]),
    ({"a": 1}, {"a": 2}),
    ({"a": 1}, {"b": 1}),
    ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": 1, "b": 2}, {"a": 1}),
    ({"a": 1}, {"a": True}),
    ({"a": 1, "b": 1}, {"a": 1, "b": True}),
    (collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1)),
    (np.array([1, 2]), np.array([1, 3])),
    (np.array([1, 1]), np.array(1)),
    (np.array([1, 2]), np.array([1, 2], np.int8)),
    (np.array([0.0]), np.array([-0.0])),
    (Elementwise((1, 2)), Elementwise((1, 3))),
    ("a", "b"),
    (None, 0),
    (max, min),
    (object(), object()),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same(a, b):
    assert same_static(a, b) is True
    assert same_static(b, a) is True
    assert same_static(a, a) is True


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_not_the_same(a, b):
    assert same_static(a, b) is False
    assert same_static(b, a) is False


def test_identity_comes_first():
    class Never:
        def __eq__(self, other):
            raise AssertionError("compared")

        __hash__ = object.__hash__

    never = Never()
    assert same_static(never, never)
    assert same_static([never], [never])


# -- arrays: what differs, and how far ------------------------------------------------------------

FLOATS = [
    np.float64,
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2fnuz,
    ml_dtypes.float8_e4m3b11fnuz,
]
INTEGERS = [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64]


def test_the_same_arrays_have_no_deviation():
    for dtype in [*FLOATS, *INTEGERS, np.complex64, ml_dtypes.int4, ml_dtypes.uint4, bool]:
        array = np.array([0, 1, 1], np.float32).astype(dtype)
        assert deviation(array, array.copy()) is None
        assert deviation(array[:0], array[:0].copy()) is None
        assert deviation(array[0:1].reshape(()), array[0:1].reshape(()).copy()) is None


def test_all_that_is_told():
    a = np.zeros((2, 3), np.float32)
    b = a.copy()
    b[0, 2], b[1, 0], b[1, 1] = 0.5, -2, np.nan
    found = deviation(a, b)
    assert found == Deviation(
        count=3,
        size=6,
        first=(0, 2),
        a="0.0",
        b="0.5",
        max_abs=2.0,
        max_rel=1.0,
        max_ulps=2**30,
        nans=((1, 1),),
        nan_count=1,
    )
    for kind, names in (
        (int, ("count", "size", "max_ulps", "nan_count")),
        (float, ("max_abs", "max_rel")),
    ):
        assert {type(getattr(found, name)) for name in names} == {kind}
    assert {type(index) for index in found.first + found.nans[0]} == {int}


def test_an_array_without_axes():
    found = deviation(np.array(1, np.int32), np.array(3, np.int32))
    assert found == Deviation(1, 1, (), "1", "3", 2.0, 2 / 3, None)


def test_numbers_are_told_as_they_are_written_shortest():
    cases = [
        (np.float64, 0.1, "0.1"),
        (np.float64, 1 + 2.0**-52, "1.0000000000000002"),
        (np.float32, 0.1, "0.1"),
        (np.float16, 0.1, "0.1"),
        (np.complex64, 1 + 2j, "(1+2j)"),
        (np.int64, 2**62 + 1, "4611686018427387905"),
        (ml_dtypes.int4, -3, "-3"),
        (np.float32, np.inf, "inf"),
        (np.float32, NAN, "nan"),
    ]
    for dtype, number, text in cases:
        found = deviation(np.array([number], dtype), np.array([5], dtype))
        assert found.a == text
        assert deviation(np.array([5], dtype), np.array([number], dtype)).b == text


SMALL = [dtype for dtype in FLOATS if np.dtype(dtype).itemsize <= 2]


def every(dtype):
    """All numbers of a small format, in float64, without repetition and in order."""
    width = np.dtype(dtype).itemsize
    bits = np.arange(2 ** (8 * width), dtype=f"u{width}")
    with np.errstate(invalid="ignore"):
        numbers = bits.view(dtype).astype(np.float64)
    return np.unique(numbers[~np.isnan(numbers)])


@pytest.mark.parametrize("dtype", [*SMALL, ml_dtypes.float8_e8m0fnu, ml_dtypes.float4_e2m1fn])
def test_ulps_of_small_formats_count_the_numbers_between(dtype):
    numbers = every(dtype)
    at = np.random.default_rng(0).integers(0, len(numbers), (2, 60))
    at[:, :4] = [[0, 0, len(numbers) - 1, 0], [len(numbers) - 1, 1, len(numbers) - 2, 0]]
    for one, two in at.T:
        a, b = (np.full(1, numbers[index]).astype(dtype) for index in (one, two))
        found = deviation(a, b)
        assert (found is None) == (one == two)
        assert found is None or found.max_ulps == abs(int(one) - int(two))


@given(st.floats(allow_nan=False), st.integers(1, 5), st.sampled_from([np.inf, -np.inf]))
def test_ulps_of_large_formats_are_steps_to_the_next_number(number, steps, way):
    for dtype in (np.float32, np.float64):
        with np.errstate(over="ignore"):
            start = end = np.array(number).astype(dtype)
            for _ in range(steps):
                end = np.nextafter(end, dtype(way))
        found = deviation(start, end)
        if np.isfinite(end):
            assert found.max_ulps == steps
        else:
            assert found is None or found.max_ulps <= steps


@given(st.tuples(*[st.floats(allow_nan=False)] * 3).map(sorted))
def test_ulps_add_up_and_have_no_sign(numbers):
    a, b, c = (np.array([number]) for number in numbers)

    def ulps(one, two):
        found = deviation(one, two)
        return 0 if found is None else found.max_ulps

    assert ulps(a, c) == ulps(a, b) + ulps(b, c)
    assert ulps(c, a) == ulps(a, c) == ulps(-a, -c)


def test_ulps_that_are_known():
    cases = [
        (np.float32, 1.0, 2.0, 2**23),
        (np.float64, 1.0, 2.0, 2**52),
        (np.float16, 1.0, 2.0, 2**10),
        (ml_dtypes.bfloat16, 1.0, 2.0, 2**7),
        (np.float32, 0.0, np.inf, 0x7F800000),
        (np.float32, -np.inf, np.inf, 2 * 0x7F800000),
        (np.float64, -np.inf, np.inf, 2 * 0x7FF0000000000000),
        (np.float32, 0.0, -0.0, 0),
        (np.float64, 5e-324, -5e-324, 2),
        (np.complex64, 1 + 1j, 2 + 1j, 2**23),
        (np.complex64, 1 + 1j, 1 + 2j, 2**23),
        (np.complex128, 1 + 1j, 2 + 4j, 2**53),
        (np.complex64, complex(0, 0), complex(0, -0.0), 0),
    ]
    for dtype, a, b, ulps in cases:
        assert deviation(np.array([a], dtype), np.array([b], dtype)).max_ulps == ulps


rows = st.lists(st.tuples(*[st.floats(-1e300, 1e300)] * 2), min_size=1, max_size=4)


@given(rows)
def test_the_largest_differences_of_floats(pairs):
    for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        with np.errstate(over="ignore"):
            a, b = np.array(pairs, np.float64).T.astype(dtype)
        found = deviation(a, b)
        exact = [(float(x), float(y)) for x, y in zip(a, b, strict=True) if x != y]
        if found is None:
            assert not exact
            continue
        assert found.max_abs == max((abs(x - y) for x, y in exact), default=0)
        relative = [
            math.inf if not y or math.isinf(x) or math.isinf(y) else abs(x - y) / abs(y)
            for x, y in exact
        ]
        assert found.max_rel == max(relative, default=0)


@pytest.mark.parametrize("dtype", [*INTEGERS, ml_dtypes.int4, ml_dtypes.uint4])
def test_the_largest_differences_of_integers(dtype):
    info = ml_dtypes.iinfo(dtype)
    rng = np.random.default_rng(0)
    pairs = [(info.min, info.max), (info.max, info.max - 1), (info.min, info.min + 1), (1, 0)]
    pairs += [
        tuple(int(x) for x in rng.integers(max(info.min, -(2**60)), min(info.max, 2**60), 2))
        for _ in range(8)
    ]
    for x, y in pairs:
        if x == y:
            continue
        a, b = (np.array([0, number, 2], dtype) for number in (x, y))
        found = deviation(a, b)
        assert (found.count, found.first, found.max_ulps) == (1, (1,), None)
        assert (found.a, found.b) == (str(x), str(y))
        assert found.max_abs == float(abs(x - y))
        expected = abs(x - y) / abs(y) if y else math.inf
        assert math.isclose(found.max_rel, expected, rel_tol=1e-15)


def test_whole_numbers_beyond_53_bits_are_compared_exactly():
    found = deviation(np.array([2**60, 5, 7]), np.array([2**60 + 1, 5, 7]))
    assert (found.max_abs, found.max_rel) == (1.0, 1 / (2**60 + 1))
    found = deviation(np.array([0], np.uint64), np.array([2**64 - 1], np.uint64))
    assert (found.max_abs, found.max_rel) == (float(2**64), 1.0)
    found = deviation(np.array([3, 9]), np.array([0, 8]))
    assert (found.max_abs, found.max_rel) == (3.0, math.inf)


def test_infinities():
    a = np.array([np.inf, -np.inf, np.inf, 1, 2], np.float32)
    found = deviation(a, np.array([np.inf, np.inf, 1, np.inf, 2], np.float32))
    assert (found.count, found.max_abs, found.max_rel) == (3, math.inf, math.inf)
    found = deviation(np.array([np.inf, 2.0]), np.array([np.inf, 1.0]))
    assert (found.max_abs, found.max_rel) == (1.0, 1.0)
    found = deviation(np.array([1.0]), np.array([np.inf]))
    assert (found.max_abs, found.max_rel) == (math.inf, math.inf)


def test_complex_numbers():
    found = deviation(np.array([3 + 4j, 0]), np.array([0, 0j]))
    assert (found.max_abs, found.max_rel) == (5.0, math.inf)
    found = deviation(np.array([0j]), np.array([3 + 4j]))
    assert (found.max_abs, found.max_rel) == (5.0, 1.0)
    found = deviation(np.array([complex(np.inf, 1)]), np.array([complex(np.inf, 2)]))
    assert found.max_abs == 1.0
    found = deviation(np.array([complex(1, -0.0)]), np.array([complex(1, 0)]))
    assert (found.count, found.max_abs, found.max_rel, found.max_ulps) == (1, 0.0, 0.0, 0)
    for one, two in ((complex(NAN, 1), complex(2, 1)), (complex(1, 2), complex(1, NAN))):
        found = deviation(np.array([one, 5j], np.complex64), np.array([two, 5j], np.complex64))
        assert (found.count, found.nan_count, found.nans) == (1, 1, ((0,),))
        assert (found.max_abs, found.max_ulps) == (0.0, 0)


def test_signs_of_zero_differ():
    for dtype in (np.float64, np.float32, ml_dtypes.bfloat16):
        found = deviation(np.array([0.0, 1], dtype), np.array([-0.0, 1], dtype))
        assert (found.count, found.max_abs, found.max_rel, found.max_ulps) == (1, 0.0, 0.0, 0)


def with_payload(bits):
    return np.array([0x3F800000, bits], np.uint32).view(np.float32)


def test_nans_are_the_same_where_their_bits_are():
    assert deviation(with_payload(0x7FC00000), with_payload(0x7FC00000)) is None
    found = deviation(with_payload(0x7FC00000), with_payload(0xFFC00001))
    assert (found.count, found.nans, found.nan_count) == (1, ((1,),), 1)
    assert (found.a, found.b) == ("nan (0x7fc00000)", "nan (0xffc00001)")
    assert (found.max_abs, found.max_rel, found.max_ulps) == (0.0, 0.0, 0)
    one, two = (
        np.array([0x7FC00000, bits], np.uint32).view(np.complex64) for bits in (0x40000000, 0)
    )
    found = deviation(one, two)
    assert found.a == "(nan+2j) (0x7fc00000 0x40000000)"
    assert found.b == "nanj (0x7fc00000 0x0)" or found.b == "(nan+0j) (0x7fc00000 0x0)"


def test_places_of_nan_in_either_array():
    a, b = np.ones((3, 7)), np.ones((3, 7))
    a[:, 1] = b[1, :] = np.nan
    b[2, 6] = 3
    found = deviation(a, b)
    where = [(0, 1), (1, 0), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 1)]
    assert found.nans == tuple(where)
    assert (found.count, found.nan_count, found.first) == (9, 8, (0, 1))
    assert (found.max_abs, found.max_rel) == (2.0, 2 / 3)
    b[0, 0] = np.nan
    found = deviation(a, b)
    assert found.nans == ((0, 0), *where[:7])
    assert found.nan_count == 9


# -- tolerances -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "rtol", "atol", "same"),
    [
        (1.0, 1.125, 0, 0.125, True),
        (1.0, 1.125, 0, 0.1249, False),
        (1.125, 1.0, 0.125, 0, True),
        (1.0, 1.125, 0.125, 0, True),
        (1.125, 1.0, 0.1249, 0, False),
        (5.0, 4.0, 0.125, 0.5, True),
        (5.0, 4.0, 0.125, 0.49, False),
        (-5.0, -4.0, 0.25, 0, True),
        (0.0, -0.0, 0, 1e-9, True),
        (np.nan, -np.nan, 0, 1e-9, True),
        (np.nan, 1.0, 1, 1e300, False),
        (1.0, np.nan, 1, 1e300, False),
        (np.inf, np.inf, 0, 1e-9, True),
        (np.inf, 1.0, 1, 1e300, False),
        (1.0, np.inf, 1, 1e300, False),
        (-np.inf, np.inf, 1, 1e300, False),
        (1.7e308, -1.7e308, 0, 1.0, False),
        (1 + 1j, 1.3 + 1.4j, 0, 0.500001, True),
        (1 + 1j, 1.3 + 1.4j, 0, 0.499999, False),
        (complex(np.inf, 1), complex(np.inf, 1.1), 1, 1, False),
    ],
)
def test_within_tolerances_numbers_are_the_same(a, b, rtol, atol, same):
    a, b = np.array([2.0, a]), np.array([2.0, b])
    assert (deviation(a, b, float(rtol), float(atol)) is None) == same


def test_what_is_within_tolerances_is_left_out_of_the_account():
    a = np.array([1.0, 2.0, np.nan, 4.0, np.nan])
    b = np.array([1.01, 3.0, -np.nan, 4.0, 1.0])
    found = deviation(a, b, rtol=0.1)
    assert (found.count, found.first, found.max_abs) == (2, (1,), 1.0)
    assert found.nans == ((4,),)
    assert deviation(a[:1], b[:1], atol=0.1) is None


def test_integers_have_no_tolerance():
    assert deviation(np.array([1]), np.array([2]), 1.0, 10.0).count == 1


# -- what are no numbers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "texts"),
    [
        ([True, False], [True, True], ("False", "True")),
        (["a", "bc"], ["a", "bd"], ("bc", "bd")),
        ([b"a", b"bc"], [b"a", b"bd"], ("b'bc'", "b'bd'")),
        (np.array([1, "b"], object), np.array([1, "c"], object), ("'b'", "'c'")),
        (np.array([NAN, 1], object), np.array([NAN, True], object), ("1", "True")),
        (
            np.array(["2020-01-01", "2020-01-02"], "M8[D]"),
            np.array(["2020-01-01", "2020-01-03"], "M8[D]"),
            ("2020-01-02", "2020-01-03"),
        ),
        (np.array([1, 2], "m8[s]"), np.array([1, 3], "m8[s]"), ("2 seconds", "3 seconds")),
        (np.array([1, 2], np.longdouble), np.array([1, 3], np.longdouble), ("2.0", "3.0")),
        (np.array([1, 2j], np.clongdouble), np.array([1, 3j], np.clongdouble), ("2j", "3j")),
        (
            np.array([(1, 2.0), (3, 4.0)], [("a", int), ("b", "f4")]),
            np.array([(1, 2.0), (3, 5.0)], [("a", int), ("b", "f4")]),
            ("(3, 4.)", "(3, 5.)"),
        ),
    ],
)
def test_elements_that_are_no_numbers(a, b, texts):
    a, b = np.array(a), np.array(b)
    found = deviation(a, b)
    assert found == Deviation(1, 2, (1,), *(str(text) for text in (found.a, found.b)))
    assert (found.max_abs, found.max_rel, found.max_ulps, found.nan_count) == (None, None, None, 0)
    assert tuple(text.replace(".0)", ".)") for text in (found.a, found.b)) == texts
    assert deviation(a, a.copy()) is None
    both = deviation(np.stack([a, a]), np.stack([a, b]))
    assert (both.first, both.size) == ((1, 1), 4)
    assert deviation(a, b, 1.0, 1.0) == found
    assert deviation(a[:0], b[:0]) is None
    assert deviation(a[1:].reshape(()), b[1:].reshape(())).first == ()


def test_objects_are_the_same_as_static_fields_are():
    nan = np.array([NAN, (1, NAN)], object)
    assert deviation(nan, np.array([-NAN, (1, -NAN)], object)) is None
    assert deviation(np.array([None], object), np.array([0], object)).count == 1


def test_elements_without_bits():
    for dtype in (jax.dtypes.float0, "U0", "V0"):
        assert deviation(np.zeros((2, 3), dtype), np.zeros((2, 3), dtype)) is None


def test_keys_are_compared_whole():
    words = np.array([[0, 1], [0, 2], [5, 3]], np.uint32)
    others = words.copy()
    others[1:, 0] += 1
    a, b = (jax.random.wrap_key_data(array) for array in (words, others))
    assert host(a).tolist() == words.tolist()
    assert deviation(a, a) is None
    assert deviation(a, b) == Deviation(2, 3, (1,), "[0 2]", "[1 2]")
    assert deviation(a[0], b[2]) == Deviation(1, 1, (), "[0 1]", "[6 3]")
    longer = jax.random.wrap_key_data(np.array([7, 12345], np.uint32))
    assert deviation(a[0], longer).b == "[7 12345]"


# -- where arrays lie -----------------------------------------------------------------------------


def test_arrays_of_jax_and_of_other_byte_orders():
    found = deviation(jnp.asarray(np.float32([1, 2])), np.array([1, 3], np.float32))
    assert (found.first, found.max_ulps, found.a, found.b) == ((1,), 2**22, "2.0", "3.0")
    swapped = [np.array(values, ">f4") for values in ([1, 2], [1, 3])]
    assert host(swapped[0]).dtype == np.float32
    assert host(swapped[0]).dtype.isnative
    assert deviation(*swapped) == deviation(*(array.astype("<f4") for array in swapped))


def test_strides_do_not_matter():
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    b = a.copy()
    b[1, 2, 0] += 1
    for cut in (lambda x: x.T, lambda x: x[:, ::-1], lambda x: x[..., ::2], lambda x: x[1:]):
        found = deviation(cut(a), cut(b))
        assert found.count == 1
        assert cut(a)[found.first] == 20


# -- in words -------------------------------------------------------------------------------------

ONE = Deviation(1, 1, (), "1", "2")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (ONE, ""),
        (dataclasses.replace(ONE, max_abs=1.0, max_rel=0.5), "abs 1, rel 0.5"),
        (dataclasses.replace(ONE, max_abs=1234567.0, max_rel=math.inf), "abs 1.23e+06, rel inf"),
        (
            dataclasses.replace(ONE, max_abs=0.5, max_rel=0.25, max_ulps=1),
            "abs 0.5, rel 0.25, 1 ulp",
        ),
        (
            dataclasses.replace(ONE, max_abs=0.5, max_rel=0.25, max_ulps=999_999),
            "abs 0.5, rel 0.25, 999,999 ulps",
        ),
        (
            dataclasses.replace(ONE, max_abs=0.5, max_rel=0.25, max_ulps=1_000_000),
            "abs 0.5, rel 0.25, 1e+06 ulps",
        ),
        (dataclasses.replace(ONE, max_abs=0.0, max_rel=0.0, max_ulps=0), "sign of zero"),
        (
            dataclasses.replace(ONE, max_abs=0.0, max_ulps=0, nans=((),), nan_count=1),
            "NaN",
        ),
        (Deviation(1000, 2000, (0, 3), "", ""), "1,000 of 2,000, first [0,3]"),
        (Deviation(1, 2, (1,), "", ""), "1 of 2, first [1]"),
        (
            Deviation(1, 2, (1,), "", "", 0.0, 0.0, 0, ((1,),), 1),
            "1 of 2, first [1]; NaN at [1]",
        ),
        (
            Deviation(2, 9, (1, 0), "", "", 0.0, 0.0, 0, ((1, 0), (2, 0)), 2),
            "2 of 9, first [1,0]; NaN at [1,0] [2,0]",
        ),
        (
            Deviation(3, 9, (0,), "", "", 0.0, 0.0, 0, ((1,), (2,)), 2),
            "3 of 9, first [0]; sign of zero; NaN at [1] [2]",
        ),
        (
            Deviation(4, 9, (0,), "", "", 2.0, 1.0, 5, ((1,), (2,), (3,)), 3),
            "4 of 9, first [0]; abs 2, rel 1, 5 ulps; NaN at [1] [2] [3]",
        ),
        (
            Deviation(4, 9, (1,), "", "", 0.0, 0.0, 0, ((1,), (2,), (3,), (4,)), 4),
            "4 of 9, first [1]; NaN at [1] [2] [3] and 1 more",
        ),
        (
            Deviation(4000, 9000, (1,), "", "", 0.0, 0.0, 0, ((1,), (2,), (3,), (4,)), 4000),
            "4,000 of 9,000, first [1]; NaN at [1] [2] [3] and 3,997 more",
        ),
    ],
)
def test_a_deviation_in_words(found, text):
    assert str(found) == text


def test_a_signalling_nan_is_told_without_a_warning():
    signalling = np.array([0x7F81, 0], "uint16").view("bfloat16")
    found = deviation(signalling, np.zeros(2, signalling.dtype))
    assert (found.nan_count, found.count) == (1, 1)
