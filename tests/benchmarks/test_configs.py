"""The workloads are what the issue says, and the same for everybody."""

import numpy as np
import pytest
from benchmarks._configs import CONFIGS, DEEP, batches, stacked, stream, weights


def parameters(config):
    return sum(array.size for array in weights(config).values())


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("tiny", (8, 784), 784 * 32 + 32 + 32 * 10 + 10),
        ("ref", (128, 784), 784 * 256 + 256 + 256 * 10 + 10),
        ("leafy", (8, 32), 23 * (32 * 32 + 32) + 32 * 10 + 10),
        ("tf", (4, 64, 64), 4 * (2 * 128 + 12 * 64 * 64 + 9 * 64) + 128 + 64 * 10 + 10),
    ],
)
def test_configuration(name, shape, count):
    inputs, labels = batches(CONFIGS[name])[0]
    assert (inputs.shape, inputs.dtype) == (shape, np.float32)
    assert (labels.shape, labels.dtype) == (shape[:1], np.int32)
    assert parameters(CONFIGS[name]) == count


def test_the_deep_model_trains_901_leaves():
    # Each weight with its two moments, and adamw's counter.
    assert 3 * len(weights(DEEP)) + 1 == 901


def test_batches_and_weights_are_the_same_every_time():
    for made in (batches, weights):
        one, two = made(CONFIGS["leafy"]), made(CONFIGS["leafy"])
        np.testing.assert_equal(one, two)


def test_half_of_the_labels_contradict_the_other_half():
    pairs = batches(CONFIGS["tiny"], count=4)
    for (inputs, labels), (again, others) in zip(pairs[:2], pairs[2:], strict=True):
        np.testing.assert_array_equal(inputs, again)
        assert (labels != others).all()


def test_stream_goes_round_and_stacked_is_its_beginning():
    pairs = batches(CONFIGS["leafy"], count=2)
    taken = list(stream(pairs, 5))
    assert [pair[0] is pairs[i % 2][0] for i, pair in enumerate(taken)] == [True] * 5
    inputs, labels = stacked(pairs, 5)
    np.testing.assert_array_equal(inputs, np.stack([pair[0] for pair in taken]))
    np.testing.assert_array_equal(labels, np.stack([pair[1] for pair in taken]))
