"""What `treadle.data` says of other people's data sets where their packages are not there."""

import sys

import pytest

import treadle
from treadle import TreadleError
from treadle.data import _torch as implementation


def test_what_is_no_loader_is_refused():
    with pytest.raises(TypeError, match=r"`loader` is of type list, not a `torch\.utils\.data"):
        treadle.data.torch([1, 2])


def test_what_is_no_data_set_is_refused():
    with pytest.raises(TypeError, match=r"`dataset` is of type list, not a `datasets\.Dataset`"):
        treadle.data.huggingface([1, 2], 2, key=None, shuffle=False)


def test_epochs_have_seeds_of_their_own_and_keep_them():
    # Written with NumPy 2.4: a run that goes on with another one keeps its order.
    assert [implementation._seed_of_epoch(7, epoch) for epoch in range(4)] == [
        7,
        3317731564112288844,
        9139555415570476218,
        2530781778362038830,
    ]
    assert implementation._seed_of_epoch(-1, 1) != implementation._seed_of_epoch(1, 1)


def test_a_missing_pyarrow_is_told_with_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TreadleError, match=r"needs pyarrow.*pip install 'treadle\[data\]'"):
        treadle.data.parquet("a.parquet")
