"""What tests of data sources share: that a position is exact, alone and in `fit`."""

import json

import equinox as eqx
import jax
import numpy as np
import optax
from tests.helpers import leaves_of

import treadle
from treadle.data import decode_position, encode_position

IN_SIZE, CLASSES, BATCH = 6, 3, 4


def make_rows(size=22, *, seed=0):
    """A few examples, each of which is told from the others by its numbers."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, IN_SIZE)).astype(np.float32)
    return x, rng.integers(0, CLASSES, size=size).astype(np.int32)


def loss_fn(model, example, key):
    x, y = (example["x"], example["y"]) if isinstance(example, dict) else example
    noise = jax.random.normal(key, x.shape)
    return optax.softmax_cross_entropy_with_integer_labels(model(x + noise), y)


# One for all tests, so that each structure of batches is compiled once.
STEP = treadle.TrainStep(loss_fn, optax.adam(1e-2))


def first_state():
    model = eqx.nn.Linear(IN_SIZE, CLASSES, key=jax.random.key(0))
    return STEP.init(model, key=jax.random.key(1))


def assert_same(one, other):
    """The same structure, types and bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(leaves_of(one), leaves_of(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def check_positions(make, cuts, count):
    """Iterators over what `make` gives go on at any cut as one that was never cut.

    Args:
        make: Makes the data anew, as another process would.
        cuts: After how many batches to cut.
        count: How many batches to compare in all.
    """
    iterator = iter(make())
    whole = [next(iterator) for _ in range(count)]
    for cut in cuts:
        iterator = iter(make())
        for expected in whole[:cut]:
            assert_same(next(iterator), expected)
        position = json.dumps(encode_position(iterator.get_state()))
        again = iter(make())
        again.set_state(decode_position(json.loads(position)))
        assert json.dumps(encode_position(again.get_state())) == position
        for expected in whole[cut:]:
            assert_same(next(again), expected)
    return whole


def check_fit(make, folder, *, steps=7, cut=4, **options):
    """A training that was stopped and continued ends in the same bits as one that was not."""
    expected, _ = treadle.fit(
        STEP, first_state(), make(), num_steps=steps, progress=False, **options
    )
    for until in (cut, steps):
        state, history = treadle.fit(
            STEP, first_state(), make(), num_steps=until, run=folder, progress=False, **options
        )
    assert history.stopped is None
    assert len(history.steps) == steps
    assert_same(state, expected)
    return state
