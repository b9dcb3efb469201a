"""The workloads are what the issue says, and the same for everybody."""

import itertools

import numpy as np
import pytest
from benchmarks._configs import CONFIGS, DEEP, RACES, batches, ready, stacked, stream, weights


def parameters(config):
    return sum(array.size for array in weights(config).values())


# The stem; blocks of 16, 32 and 64 channels, the latter two with a convolution in their shortcuts;
# the head. A norm has two numbers a channel.
RESNET = sum(
    (
        9 * 16 + 2 * 16,
        2 * (9 * 16 * 16 + 2 * 16),
        9 * 16 * 32 + 9 * 32 * 32 + 16 * 32 + 3 * 2 * 32,
        9 * 32 * 64 + 9 * 64 * 64 + 32 * 64 + 3 * 2 * 64,
        64 * 10 + 10,
    )
)


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("tiny", (8, 784), 784 * 32 + 32 + 32 * 10 + 10),
        ("ref", (128, 784), 784 * 256 + 256 + 256 * 10 + 10),
        ("leafy", (8, 32), 23 * (32 * 32 + 32) + 32 * 10 + 10),
        ("tf", (4, 64, 64), 4 * (2 * 128 + 12 * 64 * 64 + 9 * 64) + 128 + 64 * 10 + 10),
        (
            "resnet",
            (32, 1, 16, 16),
            RESNET,
        ),
        ("small", (8, 32), 2 * (32 * 32 + 32) + 32 * 10 + 10),
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


def test_stream_goes_round_and_stacked_is_the_same_in_chunks():
    pairs = batches(CONFIGS["leafy"], count=2)
    taken = list(stream(pairs, 6))
    assert [pair[0] is pairs[i % 2][0] for i, pair in enumerate(taken)] == [True] * 6
    chunks = list(stacked(pairs, 6, 3))
    assert [len(labels) for _, labels in chunks] == [3, 3]
    for part in (0, 1):
        joined = np.concatenate([chunk[part] for chunk in chunks])
        np.testing.assert_array_equal(joined, np.stack([pair[part] for pair in taken]))


@pytest.mark.parametrize(("name", "calls"), [("leafy", 1), ("resnet", 5)])
def test_ready_is_fifty_steps_round_and_round(name, calls):
    chunks = list(itertools.islice(ready(CONFIGS[name]), calls + 1))
    taken = list(stream(batches(CONFIGS[name]), 50))
    labels = np.concatenate([labels for _, labels in chunks[:-1]])
    np.testing.assert_array_equal(labels, np.stack([labels for _, labels in taken]))
    assert chunks[-1] is chunks[0]


def test_members_have_weights_of_their_own():
    one, two = weights(CONFIGS["small"]), weights(CONFIGS["small"], member=1)
    assert one.keys() == two.keys()
    assert (one["layers/0/weight"] != two["layers/0/weight"]).all()


def test_races_are_configurations():
    assert set(RACES) <= set(CONFIGS)
