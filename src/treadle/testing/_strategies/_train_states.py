"""`train_states`: states of training runs, without a step being compiled."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..._checks import whole_number
from ..._custom_types import Door
from ..._errors import ArgumentTypeError, ArgumentValueError
from ..._state import NO_FAULT, TrainState
from ..._step import TrainStep
from .. import pool
from ._draw import Draw
from ._key_words import SEEDS, key_of, make_of, plain_key, words_of
from ._limits import Limits
from ._printed import remember
from ._values import Slot, draw_values
from ._written import as_written

_LAST_STEP = int(np.iinfo(np.int32).max)
_PARAMETERS = Limits(low=-2.0, high=2.0)
_MOMENTS = Limits(low=0.0, high=2.0)
"""Second moments and variances are not negative, so nothing that an optimizer keeps is."""


# -- what the states are of -----------------------------------------------------------------------


def _linear(key: Any) -> Any:
    return eqx.nn.Linear(2, 1, key=key)


def _mlp(key: Any) -> Any:
    return eqx.nn.MLP(2, 1, 3, 1, key=key)


def _mixed(key: Any) -> Any:
    kept = pool.Parts({"key": key, "count": jnp.arange(2), "none": None})
    return pool.Branches(pool.Affine(jnp.ones(2, jnp.bfloat16), jnp.ones(())), kept)


def _stateful(key: Any) -> Any:
    norm = eqx.nn.BatchNorm(2, "batch", mode="batch")
    return eqx.nn.make_with_state(pool.Chain)([eqx.nn.Linear(2, 2, key=key), norm])


_MODELS = (_linear, _mlp, _mixed, _stateful)

_OPTIMIZERS: tuple[Callable[[], Any], ...] = (
    lambda: optax.sgd(0.1),
    lambda: optax.adam(0.1),
    lambda: optax.sgd(0.1, momentum=0.9),
    lambda: optax.chain(optax.clip(1.0), optax.adamw(optax.linear_schedule(0.1, 0.0, 10))),
    lambda: optax.MultiSteps(optax.adam(0.1), 2),
    lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=0.1),
    lambda: optax.masked(optax.adamw(0.1), pool.matrices),
    lambda: optax.adafactor(0.1),
)

_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"ema": 0.9},
    {"precision": "fp16"},
    {"ema": 0.9, "precision": "bf16-true", "nonfinite": "skip"},
    {"precision": "bf16", "nonfinite": "skip"},
)
"""Each model with each optimizer has one of these: more would take long to trace."""


# Steps are made for the states that they begin with, whatever the loss.
def _loss(model: Any, example: Any, key: Any) -> Any:
    return jnp.zeros(())


def _stateful_loss(model: Any, model_state: Any, example: Any, key: Any) -> Any:
    return jnp.zeros(()), model_state


def _template(step: TrainStep, model: Any, model_state: Any) -> TrainState:
    """The state that `step.init` gives, its arrays as `jax.ShapeDtypeStruct`s."""
    return eqx.filter_eval_shape(step.init, model, key=plain_key(), model_state=model_state)


@functools.cache
def _own_template(model: int, optimizer: int, wide: bool) -> TrainState:
    """That of one of our own steps; the default dtypes depend on whether 64 bits are on."""
    del wide
    make = _MODELS[model]
    stateful = make is _stateful
    options = _OPTIONS[(model + optimizer) % len(_OPTIONS)]
    loss = _stateful_loss if stateful else _loss
    step = TrainStep(loss, _OPTIMIZERS[optimizer](), stateful=stateful, **options)
    return _template(step, make, None)


def _draw_template(draw: Draw) -> TrainState:
    model = draw(st.integers(0, len(_MODELS) - 1))
    optimizer = draw(st.integers(0, len(_OPTIMIZERS) - 1))
    wide = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
    return _own_template(model, optimizer, wide)


# -- what is in them ------------------------------------------------------------------------------


def _part(path: str) -> str:
    return path.partition("/")[0]


def _is_number_of_steps(path: str, leaf: Any) -> bool:
    whole = jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.ndim == 0
    if path.endswith("mini_step"):  # Of `MultiSteps`; it stays below a number that we do not know.
        return False
    return path in ("step", "ema_updates") or (
        whole and _part(path) in ("opt_state", "model_state")
    )


def _draw_single(draw: Draw, path: str, leaf: Any, steps: int) -> Any:
    """A leaf with a meaning of its own, as a NumPy array or as keys; else `None`."""
    if path == "key" or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        seed = draw(SEEDS)
        if path != "key":
            return key_of(seed, leaf.shape, *make_of(leaf))
        return words_of(seed, leaf.shape[:-1], leaf.shape[-1])
    if path == "faults":
        return np.full(leaf.shape, NO_FAULT)
    if path == "loss_scale/scale":
        return np.full(leaf.shape, 2.0 ** draw(st.integers(0, 15)))
    if path in ("skipped", "loss_scale/finite_steps"):
        return np.full(leaf.shape, draw(st.integers(0, steps)))
    if path.endswith("mini_step"):
        return np.zeros(leaf.shape)
    return np.full(leaf.shape, steps) if _is_number_of_steps(path, leaf) else None


def _slot(path: str, leaf: Any) -> Slot:
    limits = _PARAMETERS if _part(path) in ("model", "ema_model") else _MOMENTS
    return Slot(leaf.shape, np.dtype(leaf.dtype), limits)


def _draw_leaves(draw: Draw, template: TrainState, steps: int) -> list[Any]:
    """Arrays for all of a state's leaves."""
    leaves: list[Any] = []
    slots = []
    for path, leaf in zip(template.leaf_paths(), template.leaves, strict=True):
        found = _draw_single(draw, path, leaf, steps)
        if found is None:
            slots.append(_slot(path, leaf))
        leaves.append(found.astype(leaf.dtype) if isinstance(found, np.ndarray) else found)
    values = iter(draw_values(draw, slots))
    leaves = [next(values) if leaf is None else leaf for leaf in leaves]
    return jax.device_put(leaves)


@st.composite
def _train_states(draw: Draw, template: TrainState | None, most: int) -> TrainState:
    if template is None:
        template = _draw_template(draw)
    leaves = _draw_leaves(draw, template, draw(st.integers(0, most)))
    return remember(TrainState(tuple(leaves), template.skeleton))


def train_states(
    step: Door[TrainStep | None] = None,
    model: Any = None,
    *,
    model_state: eqx.nn.State | None = None,
    max_step: Door[int] = 1_000,
) -> st.SearchStrategy[TrainState]:
    """States of training runs after any number of steps; nothing is compiled.

    The numbers are drawn, not trained: parameters between -2 and 2, what the optimizer and the
    layers keep between 0 and 2, counters at `state.step`. What fails shrinks to step 0 and zeros.

    By default the models and optimizers are of a few small kinds: with layers that have a state,
    with keys and integers in the model, `MultiSteps`, `inject_hyperparams`, masks; with an average,
    loss scaling, parameters in bfloat16. With a step of your own the states are such as `step.init`
    gives, and may go into a call of it.

    Args:
        step: Whose states; goes with `model`.
        model: A model, or a function that makes one, as `step.init` takes it.
        model_state: The state of the model's layers, as `step.init` takes it.
        max_step: `state.step` is at most that.

    Raises:
        ArgumentTypeError: One of `step` and `model` is missing, or `step` is none.
        ArgumentValueError: `max_step` is less than 0, or more than a state counts to.
        TreadleError: As `step.init` does.

    Example:
        >>> @given(train_states())
        ... def test_my_format_of_checkpoints(state):
        ...     check_roundtrip(my_write, my_read, state)
    """
    whole_number("max_step", max_step, minimum=0)
    if max_step > _LAST_STEP:
        raise ArgumentValueError(
            f"`max_step` (={max_step}) must be at most {_LAST_STEP}, to which a state counts."
        )
    if (step is None) != (model is None):
        missing = "model" if model is None else "step"
        raise ArgumentTypeError(f"`{missing}` is missing: give `step` and `model`, or neither.")
    if step is not None and not isinstance(step, TrainStep):
        raise ArgumentTypeError(f"`step` (={step!r}) must be a `treadle.TrainStep`.")
    template = None if step is None else _template(step, model, model_state)
    return as_written(train_states, locals(), _train_states(template, max_step))
