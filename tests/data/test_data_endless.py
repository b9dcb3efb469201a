"""Batches that never end: an evaluation refuses them, also at the door of `fit`."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.data.sources import STEP, first_state, make_rows

import treadle
from treadle.data import arrays, huggingface, prefetch

X, Y = make_rows()
CUT = {"key": None, "shuffle": False}
EVAL = treadle.EvalStep(lambda model, example: {"sum": jnp.sum(example[0])})


def of_arrays(**options):
    return arrays((X, Y), 4, **CUT, **options)


def of_a_table(**options):
    datasets = pytest.importorskip("datasets")
    return huggingface(datasets.Dataset.from_dict({"y": Y}), 4, **CUT, **options)


def of_a_stream(**options):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"y": Y}).to_iterable_dataset()
    return huggingface(rows, 4, **CUT, **options)


def of_torch(**options):
    data = pytest.importorskip("torch.utils.data")
    return treadle.data.torch(data.DataLoader(list(zip(X, Y, strict=True)), 4), **options)


@pytest.mark.parametrize("make", [of_arrays, of_a_table, of_a_stream, of_torch])
@pytest.mark.parametrize("wrap", [lambda batches: batches, prefetch], ids=["bare", "prefetch"])
def test_what_never_ends_is_refused(make, wrap):
    with pytest.raises(treadle.DataError, match=r"`batches` never end, .*epochs=1"):
        treadle.evaluate(EVAL, optax.EmptyState(), wrap(make()))


def test_what_grain_repeats_is_refused_and_an_epoch_of_it_is_not():
    grain = pytest.importorskip("grain")
    rows = grain.MapDataset.source(list(zip(X, Y, strict=True)))
    with pytest.raises(treadle.DataError, match=r"leave out Grain's `\.repeat\(\)`"):
        treadle.evaluate(EVAL, optax.EmptyState(), rows.repeat().batch(4))
    figures = treadle.evaluate(EVAL, optax.EmptyState(), rows.batch(4))
    np.testing.assert_allclose(figures["sum"], X.sum(1).mean(), rtol=1e-5)


def test_fit_says_so_before_it_trains():
    state = first_state()
    with pytest.raises(treadle.DataError, match=r"`batches` never end, .*epochs=1"):
        treadle.fit(STEP, state, of_arrays(), num_steps=9, eval=(EVAL, of_arrays()), progress=False)
    assert not state.is_consumed
