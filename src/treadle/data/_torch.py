"""Batches of PyTorch's `DataLoader`, with an order that a resumed run finds again."""

import logging
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._checks import whole_number
from .._custom_types import Batch, Door
from .._errors import ArgumentTypeError, DataError
from ._position import check_position
from ._tensors import as_batch, decode_tensors, encode_tensors

_log = logging.getLogger("treadle")

_VERSION = 1


class TorchBatches:
    """The batches of a `DataLoader`, epoch after epoch; made by `treadle.data.torch`.

    One iterator at a time: they share the loader and its generators.

    Attributes:
        epochs: How many; None means without end.
    """

    def __init__(self, loader: Any, epochs: int | None):
        self.epochs = epochs
        self._loader = loader
        self._generators = _generators_of(loader)
        self._seeds = [generator.initial_seed() for generator in self._generators]
        # torchdata's `StatefulDataLoader` can say where in an epoch it is.
        self._stateful = callable(getattr(loader, "state_dict", None))

    def __iter__(self) -> "TorchIterator":
        return TorchIterator(self)

    def __repr__(self) -> str:
        return f"TorchBatches({type(self._loader).__name__}, epochs={self.epochs})"

    def _begin(self, epoch: int, seeds: list[int], within: Any) -> Iterator[Any]:
        """One epoch of the loader, from its beginning or from a place within it."""
        for generator, seed in zip(self._generators, seeds, strict=True):
            generator.manual_seed(_seed_of_epoch(seed, epoch))
        for part in _parts(self._loader):
            # PyTorch's own protocol, of samplers that shuffle without a generator.
            set_epoch = getattr(part, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
        if within is not None:
            self._loader.load_state_dict(within)
        self._draw_as_new()
        return iter(self._loader)

    def _draw_as_new(self) -> None:
        """Draws what a loader that keeps its workers draws only once: the seed of new ones.

        It comes before the order, which would else depend on whether there were workers already.
        """
        kept = getattr(self._loader, "persistent_workers", False)
        if kept and getattr(self._loader, "_iterator", None) is not None:
            import torch  # pyright: ignore[reportMissingImports]

            torch.empty((), dtype=torch.int64).random_(generator=self._loader.generator)


def _parts(loader: Any) -> list[Any]:
    """The loader, and what decides its order."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    found = [loader, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]
    unique = {id(part): part for part in (*found, loader.dataset) if part is not None}
    return list(unique.values())


def _generators_of(loader: Any) -> list[Any]:
    """Every generator that the order is drawn from; where it is PyTorch's global one, our own."""
    import torch  # pyright: ignore[reportMissingImports]

    own = torch.Generator()
    own.manual_seed(torch.initial_seed())
    found: dict[int, Any] = {}
    for part in _parts(loader):
        if part is loader.dataset or "generator" not in vars(part):
            continue
        if part.generator is None:
            part.generator = own
        found[id(part.generator)] = part.generator
    return list(found.values())


def _seed_of_epoch(seed: int, epoch: int) -> int:
    """The first epoch's order is that of the loader itself; the others follow from its seed."""
    if epoch == 0:
        return seed
    words = np.random.SeedSequence([seed % 2**64, epoch]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


class TorchIterator:
    """An iterator over `TorchBatches`; its position is an epoch and a batch in it."""

    def __init__(self, batches: TorchBatches):
        self._of = batches
        self._go_to(0, 0, list(batches._seeds), None)

    def __iter__(self) -> "TorchIterator":
        return self

    def __next__(self) -> Batch:
        while self._epoch != self._of.epochs:
            # Not by its truth: that of a loader's iterator asks for a length.
            current = self._start() if self._current is None else self._current
            try:
                batch = next(current)
            except StopIteration:
                if self._number == 0:
                    raise DataError(
                        f"`loader` gave no batch at all in epoch {self._epoch}: an iterator that "
                        "was used up, a data set without examples, or fewer than a batch of them "
                        "with `drop_last=True`."
                    ) from None
                self._go_to(self._epoch + 1, 0, self._seeds, None)
                continue
            self._number += 1
            return as_batch(batch)
        raise StopIteration

    def _start(self) -> Iterator[Any]:
        current = self._of._begin(self._epoch, self._seeds, self._within)
        if self._within is None and self._number:
            _log.warning(
                "reading the first %d batches of epoch %d again to find the place: a DataLoader "
                "has no positions. torchdata's StatefulDataLoader has.",
                self._number,
                self._epoch,
            )
            for read in range(self._number):
                if next(current, _END) is _END:
                    raise DataError(
                        f"`loader` ended after {read} batches of epoch {self._epoch}, and the "
                        f"position is behind {self._number}: give the same data set and "
                        "`batch_size` as before, or start at the beginning of the data."
                    )
        self._current = current
        return current

    def _go_to(self, epoch: int, number: int, seeds: list[int], within: Any) -> None:
        self._epoch, self._number, self._seeds, self._within = epoch, number, seeds, within
        self._current: Iterator[Any] | None = None

    def get_state(self) -> dict[str, Any]:
        """The position behind the last batch: the epoch, the batch in it, and the seeds.

        Of a `StatefulDataLoader` also its own state, so that going there reads nothing again.
        """
        within = None
        if self._current is None:
            within = self._within
        elif self._of._stateful:
            within = self._of._loader.state_dict()
        return {
            "version": _VERSION,
            "epoch": self._epoch,
            "batch": self._number,
            "seeds": list(self._seeds),
            "loader": encode_tensors(within),
        }

    def set_state(self, state: Any) -> None:
        """Goes to a position of an iterator over the same loader.

        Within an epoch a plain `DataLoader` is read forward from the epoch's beginning, when the
        next batch is asked for, with a warning of the logger "treadle".

        Args:
            state: What `get_state` returned.

        Raises:
            DataError: If it is not a position of such a loader, or lies behind `epochs`. The
                iterator stays where it is.
        """
        check_position(
            state,
            ("epoch", "batch", "seeds", "loader"),
            of="`treadle.data.torch`",
            version=_VERSION,
            epochs=self._of.epochs,
        )
        count, here = len(state["seeds"]), len(self._of._generators)
        if count != here:
            raise DataError(
                f"`state` has the seeds of {count} generators, and this loader draws from {here}: "
                "make the loader as before (its `shuffle`, its sampler, its `generator`)."
            )
        # A plain loader finds the place without the other's state.
        within = decode_tensors(state["loader"]) if self._of._stateful else None
        self._go_to(state["epoch"], state["batch"], list(state["seeds"]), within)


class _End:
    """Marks the end of a loader whose batches may be anything."""


_END: Any = _End()


def torch(loader: Door[Any], *, epochs: Door[int | None] = None) -> TorchBatches:
    """The batches of a PyTorch `DataLoader` as NumPy arrays, epoch after epoch.

    Tensors become arrays of the same type (bfloat16 and float8 as JAX's own), in the same memory
    where they are on the host; lists, tuples and dictionaries stay. JAX makes int32 of int64, as it
    does of all arrays, unless `jax_enable_x64` is set.

    The order of an epoch follows from the seed of the loader's `generator` and the epoch's number,
    so that a resumed run sees the same batches. Where the loader has no generator and shuffles, it
    is given one with the seed of `torch.manual_seed`. What a data set draws on its own, in this
    process, is not part of a position.

    Args:
        loader: A `torch.utils.data.DataLoader`, or torchdata's `StatefulDataLoader`.
        epochs: How often to go through it; None means without end.

    Returns:
        Batches whose iterators have `get_state` and `set_state`. A `StatefulDataLoader` is put back
        at no cost; any other reads the batches of the epoch under way again.

    Raises:
        ArgumentTypeError: If `loader` is no `DataLoader`.
        ArgumentValueError: If `epochs` is not positive.
        DataError: When batches are made: a tensor has a type that NumPy lacks, or there are none.

    Example:
        >>> loader = DataLoader(dataset, batch_size=128, shuffle=True)
        >>> state, history = treadle.fit(step, state, treadle.data.torch(loader), num_steps=1_000)
    """
    # Who has a loader has imported the package.
    package = sys.modules.get("torch.utils.data")
    if package is None or not isinstance(loader, package.DataLoader):
        raise ArgumentTypeError(
            f"`loader` is of type {type(loader).__name__}, not a `torch.utils.data.DataLoader`: "
            "wrap the data set in one, `DataLoader(dataset, batch_size=128, shuffle=True)`."
        )
    if epochs is not None:
        whole_number("epochs", epochs, otherwise=", or None to go on without end")
    if _forks(loader):
        _log.warning(
            "`loader` forks its %d workers, which can hang beside JAX's threads: give it "
            "`multiprocessing_context='forkserver'` or 'spawn'.",
            loader.num_workers,
        )
    return TorchBatches(loader, None if epochs is None else int(epochs))


def _forks(loader: Any) -> bool:
    if loader.num_workers == 0:
        return False
    import multiprocessing

    context = loader.multiprocessing_context
    method = multiprocessing.get_start_method() if context is None else context.get_start_method()
    return method == "fork"
