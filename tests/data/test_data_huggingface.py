"""`treadle.data.huggingface`: data sets in Arrow tables, in their own types, resumed exactly."""

import jax
import numpy as np
import pytest
from tests.data.sources import BATCH, STEP, check_fit, check_positions, first_state, make_rows

import treadle
from treadle import TreadleError

datasets = pytest.importorskip("datasets")

X, Y = make_rows()
FEATURES = datasets.Features(
    {"x": datasets.Sequence(datasets.Value("float32"), length=6), "y": datasets.Value("int32")}
)


def table():
    return datasets.Dataset.from_dict({"x": X.tolist(), "y": Y.tolist()}, features=FEATURES)


def shuffled():
    return treadle.data.huggingface(table(), BATCH, key=jax.random.key(0))


def on_disk(folder):
    table().save_to_disk(folder)
    dataset = datasets.load_from_disk(folder)
    return lambda: treadle.data.huggingface(dataset, BATCH, key=jax.random.key(0))


def stream():
    dataset = table().to_iterable_dataset(num_shards=3).map(lambda row: row)
    return treadle.data.huggingface(
        dataset, BATCH, key=None, shuffle=False, drop_remainder=False, epochs=3
    )


def test_positions_are_exact():
    whole = check_positions(shuffled, cuts=(0, 4, 5, 7), count=11)
    # The order is that of arrays with the same key.
    arrays = iter(treadle.data.arrays({"x": X, "y": Y}, BATCH, key=jax.random.key(0)))
    for batch in whole:
        expected = next(arrays)
        np.testing.assert_array_equal(batch["x"], expected["x"])
        np.testing.assert_array_equal(batch["y"], expected["y"])


def test_streams_have_exact_positions_inside_of_their_shards():
    whole = check_positions(stream, cuts=(0, 1, 3, 6, 7), count=18)
    epochs = np.concatenate([batch["y"] for batch in whole]).reshape(3, len(Y))
    np.testing.assert_array_equal(epochs[0], Y)
    # `datasets` itself takes the shards in another order in later epochs.
    np.testing.assert_array_equal(np.sort(epochs), [np.sort(Y)] * 3)
    iterator = iter(stream())
    assert len(list(iterator)) == 18
    again = iter(stream())
    again.set_state(iterator.get_state())
    assert list(again) == []


def test_each_iterator_over_a_stream_begins_at_its_beginning():
    batches = stream()
    first = next(iter(batches))
    np.testing.assert_array_equal(next(iter(batches))["y"], first["y"])


@pytest.mark.parametrize("kind", ["on disk", "stream"])
def test_fit_resumes_bit_for_bit(kind, tmp_path):
    check_fit(stream if kind == "stream" else on_disk(tmp_path / "data"), tmp_path / "run")


def test_types_and_shapes_are_those_of_the_table():
    features = datasets.Features(
        {
            "pixels": datasets.Array2D((2, 3), "uint8"),
            "wide": datasets.Value("float64"),
            "half": datasets.Value("float16"),
            "flag": datasets.Value("bool"),
            "class": datasets.ClassLabel(num_classes=3),
            "list": datasets.Sequence(datasets.Value("int16")),
        }
    )
    given = {
        "pixels": np.arange(18, dtype=np.uint8).reshape(3, 2, 3),
        "wide": np.array([0.1, 0.2, 0.3]),
        "half": np.array([1, 2, 3], np.float16),
        "flag": np.array([True, False, True]),
        "class": np.array([0, 1, 2]),
        "list": np.array([[1, 2], [3, 4], [5, 6]], np.int16),
    }
    dataset = datasets.Dataset.from_dict(given, features=features)
    batches = treadle.data.huggingface(dataset, 3, key=None, shuffle=False, epochs=1)
    (batch,) = batches
    assert batch.keys() == given.keys()
    for name, array in given.items():
        assert batch[name].dtype == array.dtype, name
        np.testing.assert_array_equal(batch[name], array)
        assert batches.spec[name] == jax.ShapeDtypeStruct(array.shape, array.dtype)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": ["x", "y"]}, r"the column 'a' of string, which JAX does not have: turn it into"),
        ({"a": [1, None]}, r"has 1 missing values in the column 'a'"),
        ({"a": [[1, 2], [3]]}, r"has lists of 1 to 2 elements in the column 'a': pad them"),
        ({"a": [{"b": 1}, {"b": 2}]}, r"the column 'a' of struct<b: int64>"),
        ({"a": [{"bytes": b"", "path": "x"}] * 2}, r"has files in the column 'a'.*another name"),
    ],
)
def test_columns_that_are_no_numbers_are_told(columns, message):
    dataset = datasets.Dataset.from_dict(columns)
    batches = treadle.data.huggingface(dataset, 2, key=None, shuffle=False)
    with pytest.raises(TreadleError, match=message):
        next(iter(batches))


def test_other_arguments_that_cannot_be_used_are_told():
    splits = datasets.DatasetDict({"train": table(), "test": table()})
    with pytest.raises(
        TreadleError, match=r"several splits \('train', 'test'\).*dataset\['train'\]"
    ):
        treadle.data.huggingface(splits, 2, key=None, shuffle=False)
    with pytest.raises(TreadleError, match=r"`shuffle` \(=True\) needs .*shuffle=False, key=None"):
        treadle.data.huggingface(table().to_iterable_dataset(), 2, key=jax.random.key(0))
    with pytest.raises(TreadleError, match=r"`key` \(=None\) can be None only with"):
        treadle.data.huggingface(table(), 2, key=None)
    with pytest.raises(TreadleError, match=r"`batch_size` \(=23\) is larger than the data"):
        treadle.data.huggingface(table(), 23, key=None, shuffle=False)
    with pytest.raises(TreadleError, match=r"`dataset` has no examples"):
        treadle.data.huggingface(table().select([]), 2, key=None, shuffle=False)


def test_a_transform_is_not_passed_over():
    doubled = table().with_transform(lambda rows: {"x": [2 * x for x in rows["x"]]})
    with pytest.raises(TreadleError, match=r"`dataset` has a transform .*`dataset\.map\(\.\.\.\)`"):
        treadle.data.huggingface(doubled, 2, key=None, shuffle=False)


def test_examples_of_a_stream_that_differ_in_type_are_told():
    stream = datasets.IterableDataset.from_generator(lambda: iter([{"x": 1}, {"x": 2.5}]))
    batches = treadle.data.huggingface(stream, 2, key=None, shuffle=False)
    with pytest.raises(TreadleError, match=r"no table together .*its `features`"):
        next(iter(batches))


def test_a_stream_without_batches_is_told_and_not_read_for_ever():
    empty = table().to_iterable_dataset().filter(lambda row: False)
    batches = treadle.data.huggingface(empty, 2, key=None, shuffle=False)
    with pytest.raises(TreadleError, match=r"Epoch 0 of the stream has no batch at all"):
        next(iter(batches))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (3, r"`state` \(=3\) is not a position of a stream"),
        ({"version": 2, "epoch": 0, "batch": 0, "stream": {}}, r"is of version 2"),
        ({"version": 1, "epoch": None, "batch": 0, "stream": {}}, r"is not a position of a stream"),
    ],
)
def test_what_is_no_position_of_a_stream_is_told(state, message):
    with pytest.raises(TreadleError, match=message):
        iter(stream()).set_state(state)


def test_a_position_behind_the_last_epoch_is_told():
    streamed = table().to_iterable_dataset()
    long, short = (
        iter(treadle.data.huggingface(streamed, 22, key=None, shuffle=False, epochs=epochs))
        for epochs in (3, 1)
    )
    for _ in range(3):
        next(long)
    with pytest.raises(TreadleError, match=r"in epoch 2, behind batch 1 of it, .*`epochs`=1"):
        short.set_state(long.get_state())


def test_what_fit_does_not_cut_by_itself_leads_here():
    splits = datasets.DatasetDict({"train": table(), "test": table()})
    with pytest.raises(treadle.DataError, match=r"treadle\.data\.huggingface\(data\['train'\]"):
        treadle.fit(STEP, first_state(), splits, num_steps=1, progress=False)
    with pytest.raises(treadle.BatchError, match=r"one example.*`treadle\.data\.huggingface`"):
        treadle.fit(STEP, first_state(), table(), num_steps=1, progress=False)
