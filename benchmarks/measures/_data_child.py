"""The fresh process of `data`: a source alone, and feeding the step of a configuration."""

import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax

import treadle

from .._configs import CONFIGS
from ..contenders.treadle_step import first_state, make_step
from ._data_sources import SOURCES, examples

_FEWEST = 20
# As many as all workers of a source give one of: with them processes start and files are opened.
_OPENING = 4


class Watch(treadle.Callback):
    """Iterates over batches, and knows how long the device had nothing to do meanwhile.

    The host runs ahead of the device, so the time it spends in `next` is not what the device
    waits. Where the newest step is over when its successor's batch comes, all of that `next` counts
    as waited for, which is at least what it was.
    """

    def __init__(self, batches: Iterable[Any]):
        self._batches = iter(batches)
        self._newest: Any = None
        self.waited = 0.0
        self.taken = 0.0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        batch = next(self._batches)
        taken = time.perf_counter() - start
        self.taken += taken
        if self._newest is not None and self._newest.ready:
            self.waited += taken
        return batch

    def on_step(self, ctx: Any) -> None:
        self._newest = ctx.metrics


class Fed:
    """A step that is fed, again and again."""

    def __init__(self, config: str):
        self.config = CONFIGS[config]
        self.step = make_step(self.config)
        self.state = first_state(self.step, self.config)

    def run(self, batches: Iterable[Any], steps: int) -> dict:
        """That many steps: examples a second, and percent of the time spent on batches.

        A few steps before them start the source; the seconds of that are counted by themselves.
        """
        iterator = iter(batches)
        opening, _, _ = self._fit(iterator, _OPENING)
        seconds, watch, history = self._fit(iterator, steps)
        return {
            "opening": opening,
            "rate": steps * self.config.batch_size / seconds,
            "next_percent": 1e2 * history.seconds["data"] / seconds,
            "wait_percent": 1e2 * watch.waited / seconds,
        }

    def _fit(self, iterator: Iterator[Any], steps: int) -> tuple[float, Watch, treadle.History]:
        watch = Watch(iterator)
        start = time.perf_counter()
        self.state, history = treadle.fit(
            self.step,
            self.state,
            watch,
            num_steps=int(self.state.step) + steps,
            callbacks=[watch],
            progress=False,
        )
        jax.block_until_ready(self.state)
        return time.perf_counter() - start, watch, history


def alone(batches: Iterable[Any], seconds: float, size: int) -> float:
    """Examples a second, when nobody does anything with them."""
    iterator = iter(batches)
    for _ in range(_OPENING):
        next(iterator)
    count, start = 0, time.perf_counter()
    while count < _FEWEST or time.perf_counter() - start < seconds:
        next(iterator)
        count += 1
    return count * size / (time.perf_counter() - start)


def rates(config: str, names: list[str], count: int, turns: int, seconds: float) -> dict:
    """Each source, in turn: beside it each time the step on batches that lie ready."""
    fed = Fed(config)
    size = fed.config.batch_size
    pair = examples(fed.config, count)
    ready = list(itertools.islice(treadle.data.arrays(pair, size, key=jax.random.key(0)), 16))
    rate = fed.run(itertools.cycle(ready), _FEWEST)["rate"]
    if seconds:
        # The first one compiled.
        rate = fed.run(itertools.cycle(ready), 5 * _FEWEST)["rate"]
    steps = max(_FEWEST, round(rate * seconds / size))
    found: dict[str, list[dict]] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            source = SOURCES[name].make(pair, size, pathlib.Path(folder))
            # A list for a tuple is another program.
            fed.run(source, _FEWEST)
            found[name] = [_turn(fed, source, ready, steps, seconds, size) for _ in range(turns)]
    return found


def _turn(fed: Fed, source: Any, ready: list, steps: int, seconds: float, size: int) -> dict:
    return {
        "step": fed.run(itertools.cycle(ready), steps)["rate"],
        "alone": alone(source, seconds, size),
        "bare": fed.run(source, steps),
        "ahead": fed.run(treadle.data.prefetch(source), steps),
    }
