"""treadle: an ensemble as one program, step by step and through `scan`."""

import itertools

import jax

import treadle

from .. import _configs
from .._configs import Config
from ..models import _equinox
from ._base import Run
from .treadle_step import make_step, state_loss


def _first_state(step: treadle.TrainStep, config: Config, size: int) -> treadle.TrainState:
    """Every member with the first weights that the other contenders give it."""
    models = [_equinox.model(config, _configs.weights(config, i)) for i in range(size)]
    state = step.init(lambda key: models[0], key=jax.random.key(0))
    return state.replace(model=treadle.tree.stack(models))


def _mean_loss(state: treadle.TrainState, config: Config) -> float:
    losses = [state_loss(member, config) for member in treadle.tree.unstack(state)]
    return sum(losses) / len(losses)


class Ensemble(Run):
    """The user's own loop over it; the members share each batch."""

    def __init__(self, config: Config, size: int):
        self.config = config
        self.batches = _configs.batches(config)
        self.step = treadle.ensemble(make_step(config), size)
        self.state = _first_state(self.step, config, size)

    def run(self, num_steps: int) -> None:
        state, step = self.state, self.step
        for batch in _configs.stream(self.batches, num_steps):
            state, _metrics = step(state, batch)
        self.state = jax.block_until_ready(state)

    def loss(self) -> float:
        return _mean_loss(self.state, self.config)


class ScannedEnsemble(Run):
    """Many steps a call."""

    def __init__(self, config: Config, size: int):
        self.config = config
        self.ready = _configs.ready(config)
        self.step = treadle.ensemble(make_step(config), size)
        self.state = _first_state(self.step, config, size)

    def run(self, num_steps: int) -> None:
        state, scan = self.state, self.step.scan
        for batches in itertools.islice(self.ready, num_steps // self.config.steps_per_call):
            state, _metrics = scan(state, batches)
        self.state = jax.block_until_ready(state)

    def loss(self) -> float:
        return _mean_loss(self.state, self.config)


def build(config: Config, size: int) -> Run:
    return Ensemble(config, size)


def build_scan(config: Config, size: int) -> Run:
    return ScannedEnsemble(config, size)
