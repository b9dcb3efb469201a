"""`treadle.data.arrays`: its batches, their memory, and what it turns away."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from treadle import TreadleError
from treadle.data import arrays
from treadle.data._order import epoch_order, order_words

# Written by jax 0.6.1 with NumPy 2.0 and by jax 0.10.2 with NumPy 2.4.
PINNED_0 = [3, 6, 5, 9, 1, 7, 8, 2, 0, 4]
PINNED_1 = [3, 6, 4, 5, 7, 2, 0, 8, 9, 1]
PINNED_RBG = [8, 1, 0, 7, 3, 6, 4, 9, 2, 5]


def rows(batches, count=None):
    """The rows of each batch of an iterable over arrays such as `np.arange(n)`."""
    taken = iter(batches)
    return [
        np.asarray(batch).tolist()
        for batch in (taken if count is None else map(next, [taken] * count))
    ]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pair:
    image: object
    label: object


def test_any_structure_and_dtype_comes_out_as_it_went_in():
    data = {
        "pair": Pair(np.arange(24, dtype=np.uint8).reshape(6, 2, 2), np.arange(6)),
        "more": (
            np.arange(6).astype(ml_dtypes.bfloat16),
            np.array(list("abcdef")),
            jnp.arange(6) > 2,
            jax.random.split(jax.random.key(1), 6),
        ),
    }
    batches = arrays(data, 4, key=jax.random.key(0), epochs=1, drop_remainder=False)
    first, last = batches
    for whole, a, b in zip(*map(jax.tree.leaves, (data, first, last)), strict=True):
        assert type(a) is type(whole)
        assert a.dtype == b.dtype == whole.dtype
        assert a.shape == (4, *whole.shape[1:])
        assert b.shape == (2, *whole.shape[1:])
    order = np.concatenate([first["pair"].label, last["pair"].label])
    assert sorted(order) == list(range(6))
    got = np.concatenate([first["more"][1], last["more"][1]])
    assert got.tolist() == np.array(list("abcdef"))[order].tolist()
    keys = jax.random.key_data(jnp.concatenate([first["more"][3], last["more"][3]]))
    assert np.array_equal(keys, jax.random.key_data(data["more"][3])[order])


def test_the_order_is_pinned():
    # Of every platform, device and version of NumPy and jax: a run resumes where it was.
    batches = arrays(np.arange(10), 10, key=jax.random.key(0))
    assert rows(batches, 2) == [PINNED_0, PINNED_1]
    rbg = arrays(np.arange(10), 10, key=jax.random.key(0, impl="rbg"))
    assert rows(rbg, 1) == [PINNED_RBG]


def test_a_raw_key_is_the_typed_one():
    raw, typed = (
        arrays(np.arange(9), 3, key=make(3)) for make in (jax.random.PRNGKey, jax.random.key)
    )
    assert rows(raw, 9) == rows(typed, 9)


def test_orders_are_even():
    root = order_words(jax.random.key(0))
    orders = [tuple(epoch_order(root, epoch, 3).tolist()) for epoch in range(600)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert min(counts) > 70
    assert max(counts) < 130


def test_a_large_order_is_a_permutation():
    order = epoch_order(order_words(jax.random.key(0)), 5, 100_003)
    assert np.array_equal(np.sort(order), np.arange(100_003))


def test_without_shuffling_the_order_is_that_of_the_arrays():
    batches = arrays(np.arange(5), 2, key=None, shuffle=False, drop_remainder=False, epochs=2)
    assert rows(batches) == [[0, 1], [2, 3], [4]] * 2
    assert rows(arrays(jnp.arange(5), 2, key=None, shuffle=False), 3) == [[0, 1], [2, 3], [0, 1]]


@pytest.mark.parametrize("shuffle", [False, True])
def test_writing_into_a_batch_leaves_the_data_alone(shuffle):
    data = np.arange(6)
    for batch in arrays(data, 3, key=jax.random.key(0), shuffle=shuffle, epochs=1):
        batch[:] = -1
    assert data.tolist() == list(range(6))


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_on_the_device_may_be_donated(shuffle):
    data = jnp.arange(6)
    (batch,) = arrays(data, 6, key=jax.random.key(0), shuffle=shuffle, epochs=1)
    batch.delete()
    assert data.tolist() == list(range(6))


def test_a_memory_map_gives_plain_arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for shuffle in (False, True):
        batch = next(iter(arrays(mapped, 3, key=jax.random.key(0), shuffle=shuffle)))
        assert type(batch) is np.ndarray
        assert batch.flags.writeable


def test_sizes_and_spec():
    data = {"x": np.zeros((10, 3), np.float32), "key": jax.random.split(jax.random.key(0), 10)}
    batches = arrays(data, 4, key=jax.random.key(0), drop_remainder=False, epochs=3)
    assert (batches.num_examples, batches.batch_size, batches.batches_per_epoch) == (10, 4, 3)
    assert len(batches) == len(list(batches)) == 9
    assert batches.spec["x"] == jax.ShapeDtypeStruct((4, 3), np.float32)
    assert batches.spec["key"].dtype == data["key"].dtype
    assert arrays(data, 4, key=jax.random.key(0)).batches_per_epoch == 2
    short = arrays(data, 40, key=jax.random.key(0), drop_remainder=False, epochs=1)
    assert short.spec["x"].shape == next(iter(short))["x"].shape == (10, 3)
    assert repr(batches) == "ArrayBatches(10 examples, batch_size=4, batches_per_epoch=3, epochs=3)"


def test_endless_batches_have_no_length_and_are_true():
    batches = arrays(np.arange(4), np.int64(2), key=jax.random.key(0))
    with pytest.raises(TypeError, match=r"no length: `epochs` is None.*read `batches_per_epoch`"):
        len(batches)
    assert batches


def test_iterators_of_the_same_batches_do_not_meet():
    batches = arrays(np.arange(8), 2, key=jax.random.key(0))
    first, second = iter(batches), iter(batches)
    ahead = [next(first).tolist() for _ in range(6)]
    assert [next(second).tolist() for _ in range(6)] == ahead


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"batch_size": 0},
            ValueError,
            r"`batch_size` \(=0\) must be a .* at least 1\.",
        ),
        ({"batch_size": 2.0}, TypeError, r"`batch_size` \(=2\.0\) .* not of type float"),
        ({"batch_size": True}, TypeError, r"`batch_size` \(=True\) .* not of type bool"),
        ({"batch_size": 7}, ValueError, r"`batch_size` \(=7\) is larger .* 6 examples.*`drop_rem"),
        ({"epochs": 0}, ValueError, r"`epochs` \(=0\) .* or None to go on without end"),
        ({"epochs": "2"}, TypeError, r"`epochs` \(='2'\) .* not of type str"),
        ({"shuffle": 1}, TypeError, r"`shuffle` \(=1\) must be True or False"),
        ({"drop_remainder": None}, TypeError, r"`drop_remainder` \(=None\) must be True or False"),
        ({"key": None}, TypeError, r"`key` \(=None\) .* `shuffle=False`.*jax\.random\.key\(0\)"),
        ({"key": 0}, TypeError, r"`key` \(=0\) is not a key.*jax\.random\.key\(0\)"),
        ({"key": jax.random.split(jax.random.key(0))}, ValueError, r"`key` is an array of 2 keys"),
        ({"tree": {}}, ValueError, r"`tree` has no leaves"),
        ({"tree": None}, ValueError, r"`tree` has no leaves"),
        ({"tree": np.zeros((0, 3))}, ValueError, r"no examples: its leaf \(`tree` itself\) has 0"),
        ({"tree": {"a": 3.0}}, TypeError, r"a leaf `a` of type float.*np\.asarray"),
        ({"tree": [[1, 2], [3, 4]]}, TypeError, r"a leaf `0/0` of type int"),
        ({"tree": (np.ma.zeros(6),)}, TypeError, r"a leaf `0` of type MaskedArray"),
        ({"tree": {"a": np.zeros(6, ">f4")}}, TypeError, r"`a` of .*, .*`x\.astype\('<f4'\)`"),
        ({"tree": np.zeros(6, "V2")}, TypeError, r"dtype\('V2'\), .*`x\.view\(jnp\.bfloat16\)`"),
        ({"tree": np.zeros(6, [("a", "f4")])}, TypeError, r"its fields are arrays of their own"),
        ({"tree": {"a": np.zeros(6), "b": jnp.float32(1)}}, ValueError, r"a leaf `b` without axes"),
        (
            {"tree": {"x": np.zeros((6, 2)), "y": np.zeros(5), "z": jnp.zeros(6)}},
            ValueError,
            r"as many rows as one another.*`x`: 6, `y`: 5, `z`: 6",
        ),
    ],
)
def test_what_cannot_be_cut_into_batches_is_told(change, error, message):
    wanted = {"tree": np.arange(6), "batch_size": 2, "key": jax.random.key(0)} | change
    with pytest.raises(error, match=message) as raised:
        arrays(wanted.pop("tree"), wanted.pop("batch_size"), **wanted)
    assert isinstance(raised.value, TreadleError)


GOOD = {"version": 1, "epoch": 0, "batch": 1, "num_examples": 6, "batch_size": 2}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, r"`state` \(=None\) is not a position"),
        ({"epoch": 0}, r"is not a position.*the integers version, epoch, batch"),
        (GOOD | {"batch": 1.0}, r"is not a position"),
        (GOOD | {"version": 2}, r"of version 2, and this treadle reads version 1"),
        (GOOD | {"num_examples": 7}, r"at `num_examples`=7, and these .* `num_examples`=6"),
        (GOOD | {"batch_size": 3}, r"at `batch_size`=3, and these batches have `batch_size`=2"),
        (GOOD | {"epoch": 3}, r"lies outside these batches, which have `epochs`=2 of 3 batches"),
        (GOOD | {"epoch": 2}, r"lies outside"),
        (GOOD | {"epoch": -1}, r"lies outside"),
        (GOOD | {"batch": 3}, r"lies outside"),
        (GOOD | {"batch": -1}, r"lies outside"),
    ],
)
def test_a_position_that_does_not_fit_is_told_and_changes_nothing(state, message):
    iterator = iter(arrays(np.arange(6), 2, key=jax.random.key(0), epochs=2))
    next(iterator)
    before = iterator.get_state()
    with pytest.raises(ValueError, match=message) as raised:
        iterator.set_state(state)
    assert isinstance(raised.value, TreadleError)
    assert iterator.get_state() == before == GOOD


def test_the_end_is_a_position():
    batches = arrays(np.arange(6), 2, key=jax.random.key(0), epochs=2)
    iterator = iter(batches)
    assert len(list(iterator)) == 6
    end = iterator.get_state()
    again = iter(batches)
    again.set_state(end)
    assert list(again) == []
    longer = iter(arrays(np.arange(6), 2, key=jax.random.key(0), epochs=3))
    longer.set_state(end)
    assert len(list(longer)) == 3
