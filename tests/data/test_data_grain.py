"""Grain's pipelines in `fit`: they need nothing of ours, and resume exactly."""

import numpy as np
import pytest
from tests.data.sources import (
    BATCH,
    STEP,
    assert_same,
    check_fit,
    check_positions,
    first_state,
    make_rows,
)

import treadle

grain = pytest.importorskip("grain")


class Rows:
    """A source as users write them."""

    def __init__(self):
        self.x, self.y = make_rows()

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.x[index], self.y[index]

    def __repr__(self):
        # Grain compares it when a loader is put back; the default one has an address in it.
        return "Rows()"


def noisy(row, rng):
    """A transformation that draws: its draws are part of what resumes."""
    x, y = row
    return x + rng.normal(size=x.shape).astype(np.float32), y


# By default Grain reads 500 batches ahead in 16 threads, which takes a test seconds.
READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)


def map_dataset():
    rows = grain.MapDataset.source(Rows()).seed(3).shuffle()
    return rows.repeat(2).batch(BATCH, drop_remainder=True)


def iter_dataset():
    rows = grain.MapDataset.source(Rows()).seed(3).shuffle().random_map(noisy).repeat()
    return rows.to_iter_dataset(READ).filter(lambda row: row[1] != 1).batch(BATCH)


def loader(worker_count=0):
    return grain.DataLoader(
        data_source=Rows(),
        sampler=grain.samplers.IndexSampler(22, shuffle=True, seed=3),
        operations=[grain.transforms.Batch(BATCH, drop_remainder=True)],
        worker_count=worker_count,
        read_options=READ,
    )


SOURCES = [map_dataset, iter_dataset, loader]


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_positions_are_exact(make):
    whole = check_positions(make, cuts=(0, 1, 6), count=9)
    x, y = whole[0]
    assert (x.dtype, x.shape, y.dtype) == (np.float32, (BATCH, 6), np.int32)


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_fit_resumes_bit_for_bit(make, tmp_path):
    check_fit(make, tmp_path / "run")


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_fit_resumes_with_batches_made_ahead(steps_per_call, tmp_path):
    ahead = lambda: treadle.data.prefetch(iter_dataset())
    state = check_fit(ahead, tmp_path / "run", steps_per_call=steps_per_call)
    assert int(state.step) == 7


def test_a_loader_of_another_source_is_refused_by_grain():
    position = iter(loader()).get_state()

    class Others(Rows):
        def __repr__(self):
            return "Others()"

    sampler = grain.samplers.IndexSampler(22, shuffle=True, seed=3)
    other = iter(grain.DataLoader(data_source=Others(), sampler=sampler, worker_count=0))
    with pytest.raises(ValueError, match="DataSource in checkpoint does not match"):
        other.set_state(position)


def test_a_run_of_another_pipeline_is_told(tmp_path):
    def train(data, num_steps):
        options = {"run": tmp_path, "progress": False}
        treadle.fit(STEP, first_state(), data, num_steps=num_steps, **options)

    train(iter_dataset(), 2)
    says = (
        r"`data` does not go to where .*DataLoaderIterator\.set_state raised .*as in the first run"
    )
    with pytest.raises(treadle.DataError, match=says):
        train(loader(), 4)


def iter_dataset_of_workers():
    # As `absl.app.run` would do: the workers are told Grain's flags.
    pytest.importorskip("absl.flags").FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=2)
    return map_dataset().to_iter_dataset(READ).mp_prefetch(options)


def loader_of_workers():
    pytest.importorskip("absl.flags").FLAGS.mark_as_parsed()
    return loader(worker_count=2)


@pytest.mark.slow
@pytest.mark.parametrize("make", [iter_dataset_of_workers, loader_of_workers])
def test_worker_processes_resume_exactly(make, tmp_path):
    check_positions(make, cuts=(3,), count=5)
    check_fit(make, tmp_path / "run", steps=5, cut=3)


@pytest.mark.slow
def test_worker_processes_give_the_same_batches():
    ours, theirs = iter(map_dataset()), iter(iter_dataset_of_workers())
    for _ in range(4):
        assert_same(next(ours), next(theirs))
