"""`treadle.data.torch`: PyTorch's loaders as arrays, in an order that a resumed run finds again."""

import collections
import json
import logging

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from tests.data.sources import BATCH, STEP, check_fit, check_positions, first_state, make_rows

import treadle
from treadle import TreadleError
from treadle.data import decode_position, encode_position

torch = pytest.importorskip("torch")

data = pytest.importorskip("torch.utils.data")
DataLoader, TensorDataset = data.DataLoader, data.TensorDataset


def rows():
    x, y = make_rows()
    return TensorDataset(torch.from_numpy(x), torch.from_numpy(y))


def plain(**options):
    generator = torch.Generator().manual_seed(5)
    return DataLoader(rows(), batch_size=BATCH, shuffle=True, generator=generator, **options)


def global_seed(**options):
    torch.manual_seed(5)
    loader = DataLoader(rows(), batch_size=BATCH, shuffle=True, **options)
    return loader


def stateful(**options):
    loader = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    generator = torch.Generator().manual_seed(5)
    return loader(rows(), batch_size=BATCH, shuffle=True, generator=generator, **options)


def stateful_without_a_seed(**options):
    loader = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    return loader(rows(), batch_size=BATCH, shuffle=True, **options)


# torchdata 0.11 calls it, and PyTorch 2.13 says that nobody should.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

LOADERS = [plain, global_seed, stateful]


@pytest.mark.parametrize("make", LOADERS, ids=lambda make: make.__name__)
def test_positions_are_exact_over_epochs(make):
    batches = lambda: treadle.data.torch(make(drop_last=True))
    whole = check_positions(batches, cuts=(0, 3, 5, 6, 11), count=13)
    epochs = [np.concatenate([y for _, y in whole[at : at + 5]]) for at in (0, 5)]
    firsts = [whole[at][0] for at in (0, 5)]
    assert len(epochs[0]) == len(epochs[1]) == 20
    assert not np.array_equal(*firsts)


def test_a_stateful_loader_without_a_seed_finds_its_order_again():
    iterator = iter(treadle.data.torch(stateful_without_a_seed()))
    for _ in range(8):
        next(iterator)
    position = encode_position(iterator.get_state())
    torch.manual_seed(99)
    again = iter(treadle.data.torch(stateful_without_a_seed()))
    again.set_state(decode_position(json.loads(json.dumps(position))))
    for _ in range(9):
        np.testing.assert_array_equal(next(iterator)[0], next(again)[0])
    # A run that goes on twice keeps the seeds of the first.
    assert again.get_state()["seeds"] == position["seeds"] != again._of._seeds


@pytest.mark.parametrize("make", LOADERS, ids=lambda make: make.__name__)
def test_fit_resumes_bit_for_bit(make, tmp_path):
    check_fit(lambda: treadle.data.torch(make(drop_last=True)), tmp_path / "run")


def test_fit_resumes_with_batches_made_ahead(tmp_path):
    ahead = lambda: treadle.data.prefetch(treadle.data.torch(stateful(drop_last=True)))
    check_fit(ahead, tmp_path / "run")


def test_the_first_epoch_is_that_of_the_loader_itself():
    ours = [y for _, y in treadle.data.torch(plain(), epochs=1)]
    theirs = [y.numpy() for _, y in plain()]
    assert len(ours) == len(theirs) == 6
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_a_plain_loader_reads_again_and_says_so_once(caplog):
    def go_to(make, count):
        iterator = iter(treadle.data.torch(make()))
        for _ in range(count):
            next(iterator)
        again = iter(treadle.data.torch(make()))
        again.set_state(iterator.get_state())
        caplog.clear()
        with caplog.at_level(logging.WARNING, "treadle"):
            next(again), next(again)
        return [record.message for record in caplog.records]

    (told,) = go_to(plain, 8)
    assert told.startswith("reading the first 2 batches of epoch 1 again to find the place")
    assert go_to(stateful, 8) == []
    # At the beginning there is nothing to read.
    assert go_to(plain, 0) == []


class Marked(data.IterableDataset):
    """A stream that has nothing to shuffle."""

    def __iter__(self):
        return iter(np.arange(6, dtype=np.float32))


def test_streams_and_epochs():
    batches = treadle.data.torch(DataLoader(Marked(), batch_size=4), epochs=2)
    assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]] * 2
    iterator = iter(batches)
    list(iterator)
    end = iterator.get_state()
    again = iter(batches)
    again.set_state(end)
    assert list(again) == []


def test_a_sampler_that_shuffles_by_the_epoch_is_told_it():
    class Sampler(torch.utils.data.Sampler):
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter([self.epoch, self.epoch + 1])

        def __len__(self):
            return 2

    numbers = TensorDataset(torch.arange(9))
    batches = treadle.data.torch(DataLoader(numbers, batch_size=2, sampler=Sampler()), epochs=3)
    check = [batch[0].tolist() for batch in batches]
    assert check == [[0, 1], [1, 2], [2, 3]]


class Odd(data.Dataset):
    """Examples of one tensor."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __len__(self):
        return len(self.tensor)

    def __getitem__(self, index):
        return self.tensor[index]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("float32", np.float32),
        ("float64", np.float64),
        ("float16", np.float16),
        ("bfloat16", ml_dtypes.bfloat16),
        ("float8_e4m3fn", ml_dtypes.float8_e4m3fn),
        ("float8_e5m2", ml_dtypes.float8_e5m2),
        ("int64", np.int64),
        ("int32", np.int32),
        ("uint8", np.uint8),
        ("bool", np.bool_),
        ("complex64", np.complex64),
    ],
)
def test_types_and_values_stay(name, wanted):
    tensor = torch.tensor([0, 1, 0, 1, 0.5, 2] if "loat" in name else [0, 1, 0, 1, 1, 0])
    tensor = tensor.to(getattr(torch, name)).reshape(3, 2)
    # Collated by hand: PyTorch cannot stack all of these.
    loader = DataLoader(Odd(tensor), batch_size=3, collate_fn=lambda _: {"a": (tensor,)})
    (batch,) = treadle.data.torch(loader, epochs=1)
    (array,) = batch["a"]
    assert isinstance(array, np.ndarray)
    assert array.dtype == wanted
    assert array.shape == (3, 2)
    wider = tensor.to(torch.complex64 if "complex" in name else torch.float32).numpy()
    np.testing.assert_array_equal(array.astype(wider.dtype), wider)
    # JAX takes it as it is, where it has the type.
    if np.dtype(wanted).itemsize < 8:
        assert jnp.asarray(array).dtype == wanted


def test_structures_become_those_of_jax():
    Pair = collections.namedtuple("Pair", "x y")
    x = torch.ones(2, requires_grad=True)
    given = Pair(collections.UserDict(a=x), [torch.zeros(2), np.ones(2), "text"])
    loader = DataLoader(range(2), batch_size=2, collate_fn=lambda _: given)
    (batch,) = treadle.data.torch(loader, epochs=1)
    assert type(batch) is Pair
    assert type(batch.x) is dict
    assert [type(leaf) for leaf in jax.tree.leaves(batch)] == [np.ndarray] * 3 + [str]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda: torch.eye(2).to_sparse(), r"layout torch\.sparse_coo: make it dense"),
        (lambda: torch.zeros(2, dtype=torch.complex32), r"type complex32, which NumPy does not"),
    ],
)
# PyTorch says that its complex halves are not finished.
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_tensors_that_numpy_lacks_are_told(tensor, message):
    loader = DataLoader(range(2), batch_size=2, collate_fn=lambda _: tensor())
    with pytest.raises(TreadleError, match=message):
        next(iter(treadle.data.torch(loader)))


def test_a_loader_that_gives_nothing_is_told():
    class Nothing(data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(TreadleError, match=r"`loader` gave no batch at all in epoch 0"):
        next(iter(treadle.data.torch(DataLoader(Nothing(), batch_size=2))))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, r"`state` \(=None\) is not a position of `treadle\.data\.torch`"),
        ({"epoch": 0}, r"must be what `get_state` returned, a dictionary of version, epoch"),
        ({"version": 2}, r"is of version 2, and this treadle reads version 1"),
        ({"epoch": "0"}, r"is not a position of `treadle\.data\.torch`"),
        ({"batch": -1}, r"is not a position of `treadle\.data\.torch`"),
        ({"epoch": 3}, r"in epoch 3, behind batch 0 of it, and there are `epochs`=2: give as many"),
        ({"epoch": 2, "batch": 1}, r"in epoch 2, behind batch 1 of it, and there are `epochs`=2"),
        ({"seeds": [1, 2]}, r"the seeds of 2 generators, and this loader draws from 1"),
    ],
)
def test_what_is_no_position_is_told(state, message):
    iterator = iter(treadle.data.torch(plain(), epochs=2))
    if state is not None and state != {"epoch": 0}:
        state = {**iterator.get_state(), **state}
    with pytest.raises(TreadleError, match=message):
        iterator.set_state(state)
    np.testing.assert_array_equal(next(iterator)[0], next(iter(treadle.data.torch(plain())))[0])


def test_a_shorter_data_set_is_told_where_it_ends():
    iterator = iter(treadle.data.torch(plain()))
    position = {**iterator.get_state(), "batch": 7}
    iterator.set_state(position)
    with pytest.raises(TreadleError, match=r"`loader` ended after 6 batches of epoch 0.* behind 7"):
        next(iterator)


def test_epochs_must_be_a_number():
    with pytest.raises(TreadleError, match=r"`epochs` \(=0\) must be a whole number"):
        treadle.data.torch(plain(), epochs=0)


def test_forked_workers_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING, "treadle"):
        treadle.data.torch(plain(num_workers=2, multiprocessing_context="fork"))
        treadle.data.torch(plain(num_workers=2, multiprocessing_context="spawn"))
    (record,) = caplog.records
    assert "forks its 2 workers" in record.message
    assert "forkserver" in record.message


class Kept(DataLoader):
    """Draws as a loader that keeps its workers, without any."""

    def __init__(self, **options):
        super().__init__(rows(), batch_size=BATCH, shuffle=True, **options)
        vars(self)["persistent_workers"] = True  # It may not be set, and needs workers.
        self._iterator = None

    def __iter__(self):
        if self._iterator is None:  # The seed of its workers.
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)
            self._iterator = self
        return (next(iter(parts)) for parts in map(self._fetched, self.batch_sampler))

    def _fetched(self, indices):
        yield self.collate_fn([self.dataset[index] for index in indices])


def test_the_order_of_a_loader_that_keeps_its_workers_is_that_of_the_epoch():
    def make():
        return treadle.data.torch(Kept(generator=torch.Generator().manual_seed(5)))

    check_positions(make, cuts=(3, 7, 13), count=15)
    batches = make()
    first, second = ([next(iterator)[0] for _ in range(4)] for iterator in map(iter, [batches] * 2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_a_loader_that_keeps_its_workers_resumes_exactly():
    options = {"num_workers": 1, "multiprocessing_context": "forkserver"}
    make = lambda: treadle.data.torch(plain(**options, persistent_workers=True))
    check_positions(make, cuts=(8,), count=10)


@pytest.mark.slow
@pytest.mark.parametrize("make", LOADERS, ids=lambda make: make.__name__)
def test_worker_processes_resume_exactly(make):
    workers = {"num_workers": 2, "multiprocessing_context": "spawn", "drop_last": True}
    whole = check_positions(lambda: treadle.data.torch(make(**workers)), cuts=(6,), count=7)
    if make is stateful:
        return  # torchdata draws the order at another moment where there are workers.
    alone = iter(treadle.data.torch(make(drop_last=True)))
    for x, _ in whole:
        np.testing.assert_array_equal(x, next(alone)[0])


class Noisy(data.Dataset):
    """Examples that are changed by draws of their own."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return index + torch.rand(2)


@pytest.mark.slow
def test_what_workers_of_a_plain_loader_draw_is_part_of_the_position():
    def make():
        torch.manual_seed(5)
        loader = DataLoader(
            Noisy(), batch_size=BATCH, shuffle=True, num_workers=2, multiprocessing_context="spawn"
        )
        return treadle.data.torch(loader)

    check_positions(make, cuts=(4,), count=6)


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_a_loader_given_to_fit_itself_is_told_what_to_do(steps_per_call):
    says = r"has a Tensor of torch\.float32 and shape \(4, 6\) at '0'.*`treadle\.data\.torch"
    with pytest.raises(treadle.BatchError, match=says):
        treadle.fit(
            STEP, first_state(), plain(), num_steps=4, steps_per_call=steps_per_call, progress=False
        )


def test_an_exported_program_is_not_called_with_tensors():
    program = treadle.export(jnp.sin, jnp.zeros(3), platforms=["cpu"])
    with pytest.raises(treadle.BatchError, match=r"of type Tensor: it has to be an array of NumPy"):
        treadle.load_exported(program)(torch.zeros(2, 3))
