"""treadle: `fit`, with its progress bar and a row of JSON every 10 steps."""

import tempfile
import time
from collections.abc import Sequence

import jax

import treadle
import treadle.callbacks
import treadle.track

from .. import _configs
from .._configs import Config
from ._base import Run
from .treadle_step import first_state, make_step, state_loss


class Fit(Run):
    """`fit` on a stream of batches, to a file that is new every time."""

    def __init__(self, config: Config, steps_per_call: int):
        self.config = config
        self.batches = _configs.batches(config)
        self.step = make_step(config)
        self.state = first_state(self.step, config)
        self.steps_per_call = steps_per_call

    def run(self, num_steps: int, callbacks: Sequence[treadle.Callback] = ()) -> None:
        with tempfile.TemporaryDirectory() as folder:
            log = treadle.callbacks.Log(treadle.track.JSONL(f"{folder}/metrics.jsonl"), interval=10)
            self.state, _ = treadle.fit(
                self.step,
                self.state,
                _configs.stream(self.batches, num_steps),
                num_steps=int(self.state.step) + num_steps,
                callbacks=[log, *callbacks],
                steps_per_call=self.steps_per_call,
                progress=True,
            )
        jax.block_until_ready(self.state)

    def loss(self) -> float:
        return state_loss(self.state, self.config)


class StepTimes(treadle.Callback):
    """Notes when each step was handed to the device."""

    def __init__(self):
        self.times: list[float] = []

    def on_step(self, ctx) -> None:
        self.times.append(time.perf_counter())


def build(config: Config) -> Run:
    return Fit(config, steps_per_call=1)


def build_fused(config: Config) -> Run:
    return Fit(config, steps_per_call=config.steps_per_call)
