"""What the host answers with: iterators' places, and the clock at another day."""

import itertools
import time

import pytest

from treadle._audit._purity._host import clock_moved, position_of


def _numbers():
    at = 0
    while True:
        yield at
        at += 1


@pytest.mark.parametrize(
    "iterator",
    [itertools.count(), _numbers(), iter([1, 2]), (each for each in "ab")],
    ids=["count", "generator", "list", "expression"],
)
def test_an_iterator_that_was_asked_stands_elsewhere(iterator):
    before = position_of(iterator)
    assert position_of(iterator) == before
    next(iterator)
    assert position_of(iterator) != before


def test_the_clock_is_moved_under_all_its_names_and_put_back():
    real = time.time
    scope = {"now": real, "other": time.perf_counter}
    with clock_moved([scope]):
        assert time.time() > real() + 1e5
        assert scope["now"]() > real() + 1e5
        assert scope["other"] is time.perf_counter
    assert time.time is real
    assert scope["now"] is real


def test_the_clock_is_put_back_after_an_error():
    real = time.time

    def fails():
        with clock_moved([]):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert time.time is real
