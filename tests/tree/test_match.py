from typing import Any

import equinox as eqx
import jax
import ml_dtypes
import numpy as np
import pytest
from tests.helpers import exactly
from tests.tree.containers import Flat, Point

from treadle._errors import TreeError
from treadle.tree._match import (
    alike,
    fits,
    is_inexact,
    mismatches,
    require_match,
    some,
    told,
    told_apart,
)


class Layer(eqx.Module):
    weight: Any
    size: Any = eqx.field(static=True, default=3)


class Printed:
    """Prints what it is told to."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


class Other(Printed):
    pass


def function():
    """Only its name counts."""


@pytest.mark.parametrize(
    ("leaf", "text"),
    [
        (np.zeros((2, 3), np.int8), "int8[2,3]"),
        (np.zeros(()), "float64[]"),
        (jax.ShapeDtypeStruct((4,), "bfloat16"), "bfloat16[4]"),
        (function, "<function>"),
        (int, "<int>"),
        (eval("lambda: 0"), "<lambda>"),
        (0.1, "0.1"),
        (None, "None"),
        ("word", "'word'"),
        (np.float32(1), "np.float32(1.0)"),
        (Printed("x" * 60), "x" * 60),
        (Printed("x" * 61), "x" * 57 + "..."),
        (Printed("a  b"), "a  b"),
        (Printed("Two(\n  lines\n)"), "Two( lines )"),
    ],
)
def test_a_leaf_in_words(leaf, text):
    assert told(leaf) == text


def test_a_lambda_in_words():
    assert told(lambda: 0) == "<test_a_lambda_in_words.<locals>.<lambda>>"


def test_two_that_differ_are_told_apart():
    assert told_apart(1, 2) == ("1", "2")
    assert told_apart(np.zeros(2), np.zeros(3)) == ("float64[2]", "float64[3]")
    long = "x" * 60
    assert told_apart(Printed(long + "a"), Printed(long + "b")) == (long + "a", long + "b")
    zeros, ones = np.zeros(2), np.ones(2)
    assert told_apart(zeros, ones) == ("array([0., 0.])", "array([1., 1.])")
    assert told_apart(Printed("p"), Other("p")) == (
        f"p of type {__name__}.Printed",
        f"p of type {__name__}.Other",
    )
    one, two = Printed("p"), Printed("p")
    assert told_apart(one, two) == (f"p at {id(one):#x}", f"p at {id(two):#x}")


def test_the_first_of_many():
    letters = list("abcde")
    assert some(letters) == "a, b, c, and 2 more"
    assert some(iter(letters), 4, "; ") == "a; b; c; d; and 1 more"
    assert some(letters, 5) == "a, b, c, d, e"
    assert some([]) == ""


FLOATS = [np.zeros(2, dtype) for dtype in (np.float32, np.float64, ml_dtypes.bfloat16)]
COMPLEX = [np.zeros(2, dtype) for dtype in (np.complex64, np.complex128)]
OTHERS = [np.zeros(2, dtype) for dtype in (bool, np.int8, np.uint32, ml_dtypes.int4)]


def test_which_arrays_are_of_floats():
    structs = [jax.ShapeDtypeStruct((2,), leaf.dtype) for leaf in FLOATS + COMPLEX]
    assert all(map(is_inexact, FLOATS + COMPLEX + structs))
    assert not any(map(is_inexact, [*OTHERS, 1.0, np.float32(1), jax.ShapeDtypeStruct((), "int8")]))


def test_arrays_fit_in_shape_and_family():
    families = (FLOATS, COMPLEX, OTHERS)
    for family in families:
        for other in families:
            assert {fits(a, b) for a in family for b in other} == {family is other}
    assert not fits(np.zeros(2), np.zeros((2, 1)))
    struct = jax.ShapeDtypeStruct((2,), "float32")
    assert fits(struct, jax.ShapeDtypeStruct((2,), "bfloat16"))
    assert not fits(np.zeros(2), struct)
    assert fits(1, "x")
    assert fits(np.zeros(2, int), 1)
    assert fits(1, np.zeros(2, int))
    assert not fits(np.zeros(2), 1.0)
    assert not fits(1.0, np.zeros(2))


def test_alike_are_arrays_of_one_shape_and_dtype_and_equal_leaves():
    assert alike(np.zeros(2), np.ones(2))
    assert not alike(np.zeros(2), np.zeros((2, 1)))
    assert not alike(np.zeros(2), np.zeros(2, np.float32))
    struct = jax.ShapeDtypeStruct((2,), "float64")
    assert alike(struct, jax.ShapeDtypeStruct((2,), "float64"))
    assert not alike(struct, np.zeros(2))
    assert alike("a", "a")
    assert not alike(1, True)
    assert not alike(np.zeros(()), np.float64(0))


def test_ways_in_which_trees_do_not_fit():
    names = ("a", "b")
    one = {"x": [1, np.zeros(2)], "y": 3}
    assert mismatches(one, one, names) == []
    assert mismatches(one, {"x": [1, np.ones(2)], "y": 3}, names) == []
    assert mismatches({"x": [2, np.zeros(3)], "z": 4}, one, names) == [
        "only a has 'z'",
        "only b has 'y'",
        "'x/0' is 2 in a and 1 in b",
        "'x/1' is float64[3] in a and float64[2] in b",
    ]
    assert mismatches(list("abcde"), [], names) == ["only a has '0', '1', '2', and 2 more"]
    assert mismatches(one, {"x": [9, np.zeros(2)], "y": 3}, names, fits) == []
    assert mismatches([1], [2], names, lambda a, b: (a, b) == (1, 2)) == []
    assert mismatches([1], [1], names, lambda a, b: False)[0].startswith("'0' is 1 at 0x")


STATIC = "a static field, or the keys of a dictionary, differ"
PRINT = ": print `treadle.tree.diff` of them"


@pytest.mark.parametrize(
    ("one", "two", "told"),
    [
        ([1], (1,), "a container is a list in a and a tuple in b"),
        ({"x": [1]}, {"x": (1,)}, "a container at 'x' is a list in a and a tuple in b"),
        ([1, None], [1, ()], "a container at '1' is None in a and a tuple in b"),
        ([1, {}], [1, None], "a container at '1' is a dict in a and None in b"),
        ([Layer(1)], {"0": Layer(1, 4)}, "a container is a list in a and a dict in b"),
        (
            [{}, (Layer(1),)],
            [{}, (Layer(1, 4),)],
            f"{STATIC} at '1/0'{PRINT}",
        ),
        (Layer(1), Layer(1, 4), f"{STATIC}{PRINT}"),
        (Point(1, 2, np.ones(2)), Point(1, 2, np.zeros(2)), f"{STATIC}{PRINT}"),
        ([{}, {"a": {1: 2}}], [{}, {"a": {"1": 2}}], f"{STATIC} at '1/a'{PRINT}"),
        ({"a": Flat(("x",), (1,))}, {"a": Flat(["x"], (1,))}, f"{STATIC} at 'a'{PRINT}"),
    ],
)
def test_structures_that_differ_with_the_same_paths(one, two, told):
    (problem,) = mismatches(one, two, ("a", "b"))
    assert problem == told


def test_static_fields_that_cannot_be_compared_by_jax_are_compared_by_us():
    class Odd:
        def __eq__(self, other):
            raise RuntimeError

    odd = Odd()
    for one, two in (
        ([Point(1, 2, np.ones(2))], [Point(1, 2, np.ones(2))]),
        ([Layer(1, odd), Point(2, 2, np.ones(2))], [Layer(1, odd), Point(2, 2, np.ones(2))]),
    ):
        assert mismatches(one, two, ("a", "b")) == []
        require_match(one, two, ("`a`", "`b`"))
    # The first that does differ is told, not the first that cannot be compared.
    one, two = ([Point(1, 2, np.ones(2)), Layer(1, 3)], [Point(1, 2, np.ones(2)), Layer(1, 4)])
    assert mismatches(one, two, ("a", "b")) == [f"{STATIC} at '1'{PRINT}"]


def test_trees_that_do_not_fit_are_refused():
    require_match([1], [1], ("`a`", "`b`"))
    require_match([1], [2], ("`a`", "`b`"), fits)
    message = (
        "`a` and `b` do not fit each other: '0' is 1 in `a` and 5 in `b`; '1' is 2 in `a` and 5 in "
        "`b`; '2' is 3 in `a` and 5 in `b`; and 1 more."
    )
    with pytest.raises(TreeError, match=exactly(message)):
        require_match([1, 2, 3, 4], [5, 5, 5, 5], ("`a`", "`b`"))
