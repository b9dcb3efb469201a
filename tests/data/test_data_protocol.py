"""Positions of iterators: who has one, and how it is written down."""

import json

import numpy as np
import pytest

from treadle.data import (
    BatchIterator,
    arrays,
    decode_position,
    encode_position,
    is_positioned,
    prefetch,
)


def test_who_has_a_position():
    batches = arrays(np.arange(4), 2, key=None, shuffle=False)
    assert is_positioned(iter(batches))
    assert isinstance(iter(batches), BatchIterator)
    assert not is_positioned(batches)
    assert not is_positioned(iter([1, 2]))
    assert is_positioned(iter(prefetch(batches)))
    assert not is_positioned(iter(prefetch(iter([1, 2]))))
    assert is_positioned(iter(prefetch(prefetch(batches))))
    assert not is_positioned(iter(prefetch(prefetch([1, 2]))))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"next_index": 3, "more": [True, None, "a", 0.5, {}]},) * 2,
        (b"\x00\xffgrain", b"\x00\xffgrain"),
        ({"inner": [b"", b"a"], "outer": {"b": b"\x01"}},) * 2,
        ({"at": np.int64(3), "pair": (1, np.float32(0.5))}, {"at": 3, "pair": [1, 0.5]}),
        (7, 7),
    ],
)
def test_a_position_goes_through_json(state, expected):
    text = json.dumps(encode_position(state), allow_nan=False)
    assert decode_position(json.loads(text)) == expected


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (object(), r"`get_state\(\)` \(=<object .*> *\) is of type object"),
        ({"a": [0, {1}]}, r"`get_state\(\)\['a'\]\[1\]` \(=\{1\}\) is of type set"),
        ({"a": np.zeros(2)}, r"`get_state\(\)\['a'\]` .* is of type ndarray"),
        ({"a": float("nan")}, r"`get_state\(\)\['a'\]` \(=nan\).*finite numbers"),
        ({"a": {3: 1}}, r"`get_state\(\)\['a'\]` has the key 3"),
        ({"$bytes": "x"}, r"has the key '\$bytes'.*other than '\$bytes'"),
    ],
)
def test_a_position_that_cannot_be_written_down_is_told(state, message):
    with pytest.raises(ValueError, match=message):
        encode_position(state)


@pytest.mark.parametrize("damaged", ["a", "é", 3, None])
def test_a_damaged_position_is_told(damaged):
    with pytest.raises(ValueError, match=r"`position` has bytes that are not base64"):
        decode_position({"a": [{"$bytes": damaged}]})
