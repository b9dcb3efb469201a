"""`check_resume`: steps of training, files for their states, and sources of batches."""

import itertools
import pathlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax

import treadle
from treadle.testing import batches_like, check_resume

from ._subject import Subject

_BATCHES = st.lists(batches_like(np.zeros((2, 3), np.float32)), min_size=2, max_size=4)
State = dict[str, Any]
Step = Callable[[State, Any], tuple[State, Any]]
Make = Callable[[], dict[str, Any]]


def _start() -> State:
    return {
        "weight": np.ones(3, np.float32),
        "moment": np.zeros(3, np.float32),
        "key": jax.random.key_data(jax.random.key(0)),
        "step": np.int32(0),
    }


def _noise(seed: Any) -> np.ndarray:
    return np.random.default_rng(np.asarray(seed)).normal(size=3).astype("float32")


def _step(state: State, batch: Any) -> tuple[State, Any]:
    """Gradient descent with a moment and noise, in NumPy: nothing is compiled."""
    draw = _noise([*np.asarray(state["key"]), state["step"]])
    gradient = batch.mean(0) + 0.1 * draw
    moment = 0.5 * state["moment"] + gradient
    new = {
        "weight": state["weight"] - moment,
        "moment": moment,
        "key": state["key"],
        "step": np.int32(state["step"] + 1),
    }
    return new, {"loss": np.float32((state["weight"] * batch).sum())}


# -- steps that keep something ----------------------------------------------------------------


def _counting() -> dict[str, Any]:
    """Every second step is longer, by a counter outside of the state."""
    calls = itertools.count()

    def step(state: State, batch: Any) -> tuple[State, Any]:
        return _step(state, batch * np.float32(1 + next(calls) % 2))

    return {"step": step}


def _drawing() -> dict[str, Any]:
    draws = np.random.default_rng(0)

    def step(state: State, batch: Any) -> tuple[State, Any]:
        return _step(state, batch + draws.normal(size=3).astype("float32"))

    return {"step": step}


def _averaging() -> dict[str, Any]:
    """The loss that is told is an average over the last steps."""
    mean = np.float32(0)

    def step(state: State, batch: Any) -> tuple[State, Any]:
        nonlocal mean
        new, metrics = _step(state, batch)
        mean = np.float32(0.9) * mean + np.float32(0.1) * metrics["loss"]
        return new, {"loss": mean}

    return {"step": step}


def _warming_up() -> dict[str, Any]:
    """The first step is different."""
    begun = False

    def step(state: State, batch: Any) -> tuple[State, Any]:
        nonlocal begun
        batch = batch if begun else batch * 0
        begun = True
        return _step(state, batch)

    return {"step": step}


def _normalising() -> dict[str, Any]:
    """Scales the batch in place."""

    def step(state: State, batch: Any) -> tuple[State, Any]:
        batch -= batch.mean()
        return _step(state, batch)

    return {"step": step}


# -- files that lack something ------------------------------------------------------------------


def _save(path: pathlib.Path, state: State) -> None:
    path.write_bytes(pickle.dumps(jax.tree.map(np.asarray, state)))


def _load(path: pathlib.Path, like: State) -> State:
    loaded = pickle.loads(path.read_bytes())
    return {**loaded, "step": np.int32(loaded["step"]), "key": jnp.asarray(loaded["key"])}


def _files(
    save: Callable[[State], State] = lambda state: state,
    load: Callable[[State, State], State] = lambda loaded, like: loaded,
) -> Make:
    """What becomes of a state on its way into the file, and out of it."""
    return lambda: {
        "save": lambda path, state: _save(path, save(state)),
        "load": lambda path, like: load(_load(path, like), like),
    }


def _halved(state: State) -> State:
    return {**state, "weight": state["weight"].astype("float16").astype("float32")}


# -- sources of batches ------------------------------------------------------------------------


class _Source:
    """Batches by their number, and where one is among them."""

    def __init__(self, batches: list[Any]):
        self.batches = batches
        self.at = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.at >= len(self.batches):
            raise StopIteration
        self.at += 1
        return self.batches[self.at - 1]

    def get_state(self) -> Any:
        return {"at": self.at}

    def set_state(self, state: Any) -> None:
        self.at = state["at"]


class _OneBack(_Source):
    """Tells the number of the batch that was given last."""

    def get_state(self) -> Any:
        return {"at": max(self.at - 1, 0)}


class _Ahead(_Source):
    """Has fetched one more than it has given."""

    def get_state(self) -> Any:
        return {"at": min(self.at + 1, len(self.batches))}


class _Alias(_Source):
    """Its position moves on with it."""

    def __init__(self, batches: list[Any]):
        super().__init__(batches)
        self.position = {"at": 0}

    def __next__(self) -> Any:
        batch = super().__next__()
        self.position["at"] = self.at
        return batch

    def get_state(self) -> Any:
        return self.position


def _reshuffled(batches: list[Any]) -> Any:
    """Another order each time it is made."""
    made = itertools.count()
    return lambda: _Source([batches[at] for at in np.roll(range(len(batches)), next(made))])


def _from(source: type[_Source]) -> Callable[[list[Any]], Any]:
    return lambda batches: lambda: source(batches)


def _broken(
    name: str, make: Make = dict, source: Callable[[list[Any]], Any] = lambda batches: batches
) -> Subject:
    def check(batches: list[Any]) -> None:
        options = make()
        step = options.pop("step", _step)
        check_resume(step, _start(), source(batches), **options)

    return Subject("check_resume", name, _BATCHES, check)


_OPTIMIZER = optax.adam(0.1)
_TRAIN_STEP = treadle.TrainStep(
    lambda model, x, key: jnp.sum(model(x + jax.random.normal(key, x.shape)) ** 2), _OPTIMIZER
)


def _train_step(batches: list[Any]) -> None:
    model = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    check_resume(_TRAIN_STEP, _TRAIN_STEP.init(model, key=jax.random.key(1)), batches)


SUBJECTS = (
    _broken("all it needs is in the state")._replace(right=True),
    _broken("a source that knows where it is", source=_from(_Source))._replace(right=True),
    Subject("check_resume", "treadle.TrainStep", _BATCHES, _train_step, right=True),
    _broken("every second step differs, by a counter outside", _counting),
    _broken("draws from a generator outside", _drawing),
    _broken("averages the loss outside", _averaging),
    _broken("the first call differs", _warming_up),
    _broken("scales the batch in place", _normalising),
    _broken(
        "the file lacks the optimizer's state",
        _files(load=lambda new, like: {**new, "moment": like["moment"]}),
    ),
    _broken(
        "the file lacks the number of the step",
        _files(load=lambda new, like: {**new, "step": like["step"]}),
    ),
    _broken("float16 in the file", _files(save=_halved)),
    _broken(
        "the key is folded when it is loaded",
        _files(load=lambda new, like: {**new, "key": new["key"] + 1}),
    ),
    _broken("the last batch comes twice", source=_from(_OneBack)),
    _broken("a batch that was fetched ahead is lost", source=_from(_Ahead)),
    _broken("the position moves on with the source", source=_from(_Alias)),
    _broken("the order is another each time", source=_reshuffled),
)
