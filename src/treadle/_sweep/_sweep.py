"""`sweep`: every setting of a grid, trained as few ensembles, compared in one table."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._checks import one_of, whole_number
from .._custom_types import Args, Batch, Door, KeyLike, Model
from .._ensemble import ensemble
from .._errors import ArgumentTypeError, ArgumentValueError
from .._loop import History, fit
from .._random import as_key, member_keys
from .._state import TrainState
from .._step import TrainStep
from ..tree._stack import unstack
from ._grid import Setting, grouped, names_of, require_known, settings_of, traced_names
from ._table import SweepRow, SweepTable, rank, row_of


class Sweep(NamedTuple):
    """What a sweep gives.

    Attributes:
        table: Every setting with its figures; it prints as a table, best first.
        best_state: The state of the best setting's best seed, as of a single run:
            `make_step(**table.best.setting)` trains it on.
    """

    table: SweepTable
    best_state: TrainState


def sweep(
    make_step: Door[Callable[..., TrainStep]],
    grid: Door[Mapping[str, Iterable[Any]] | Sequence[Mapping[str, Any]]],
    make_model: Door[Callable[..., Model]],
    data: Door[Iterable[Batch] | Callable[[], Iterable[Batch]]],
    *,
    num_steps: Door[int],
    key: Door[KeyLike],
    eval: Any = None,  # noqa: A002  (the name that `fit` has)
    metric: Door[str] = "loss",
    mode: Door[str] = "min",
    seeds: Door[int] = 1,
    max_members: Door[int | None] = None,
    args: Args | None = None,
    steps_per_call: Door[int] = 1,
    progress: bool = True,
) -> Sweep:
    """Trains every setting of a grid, and compares what came of them.

    Settings that differ only in numbers that `make_step` hands to `optax.inject_hyperparams` as
    they are (a learning rate, a weight decay) are members of one ensemble, and so are all seeds:
    one program trains them together. Others (a width, an activation) get a program each. All of
    them see the same batches, and seed `i` begins with the same key in every setting. A run whose
    loss or gradient is NaN or infinite stands still from then on, and counts as diverged.

    Args:
        make_step: Makes the step from the names of the grid that it takes.
        grid: A dictionary of names to the values to try, whose product is tried; or a list of
            dictionaries, each of which is tried.
        make_model: Makes the model from a key and the names of the grid that it takes. With a
            stateful step, `eqx.nn.make_with_state` goes around the whole of it.
        data: Batches that start anew each time they are iterated over, such as
            `treadle.data.arrays(...)` or a list; or a function that gives them.
        num_steps: Of each run.
        key: The root of all randomness.
        eval: `(EvalStep, batches)`, or a function of the ensemble's state that returns figures with
            one value for each member. Without it the figures are those of the last step.
        metric: Which of the figures is compared.
        mode: `"min"` or `"max"`: which way is better.
        seeds: Runs of each setting; the figures are their means.
        max_members: How many runs one ensemble may have, where memory is short.
        args: What the loss takes as `args`.
        steps_per_call: How many steps one dispatch fuses.
        progress: Whether to show a progress bar for each ensemble.

    Returns:
        The table, and the state of the best run.

    Raises:
        ArgumentTypeError, ArgumentValueError: An argument cannot be used: a grid that is none, a
            name that nothing takes, a metric that is not there.
        BatchError, DataError, LossError, TreeError: As `fit` and `ensemble` raise them.

    Example:
        >>> def make_step(learning_rate, weight_decay):
        ...     adamw = optax.inject_hyperparams(optax.adamw)
        ...     return treadle.TrainStep(loss_fn, adamw(learning_rate, weight_decay=weight_decay))
        >>> grid = {"learning_rate": [1e-4, 1e-3, 1e-2], "weight_decay": [0.0, 0.1]}
        >>> found = treadle.sweep(make_step, grid, make_model, batches, num_steps=500, key=key)
        >>> print(found.table)
    """
    settings = settings_of(grid)
    one_of("mode", mode, ("min", "max"))
    whole_number("seeds", seeds)
    whole_number("num_steps", num_steps)
    if max_members is not None:
        whole_number("max_members", max_members, otherwise=", or None for no limit")
    for name, function in (("make_step", make_step), ("make_model", make_model)):
        if not callable(function):
            raise ArgumentTypeError(f"`{name}` (={function!r}) must be a function.")
    require_known(settings[0], make_step, make_model)
    keys = member_keys(as_key(key), seeds)
    of_step = names_of(make_step, settings[0])
    _require_step(make_step(**{name: settings[0][name] for name in of_step}))
    ends = [settings[0], settings[-1]] if len(settings) > 1 else []
    traced = traced_names(of_step, ends, make_step) - names_of(make_model, settings[0])
    rows: dict[int, SweepRow] = {}
    best: TrainState | None = None
    programs = _programs(settings, traced, seeds, max_members)
    for group in programs:
        members = [(setting, seed) for _, setting in group for seed in range(seeds)]
        step, state = _ensemble_of(members, make_step, make_model, keys, traced)
        state, history = fit(
            step,
            state,
            data() if callable(data) else data,
            num_steps=num_steps,
            args=args,
            eval=eval,
            steps_per_call=steps_per_call,
            progress=progress,
        )
        figures = _figures(history, metric, len(members))
        lost = ~np.asarray(state.active)
        for index, (place, setting) in enumerate(group):
            own = slice(index * seeds, (index + 1) * seeds)
            row = row_of(setting, {n: column[own] for n, column in figures.items()}, lost[own])
            if all(rank(row, metric, mode) < rank(other, metric, mode) for other in rows.values()):
                best = None  # Freed before the next is copied.
                best = unstack(state)[own.start + _best_seed(row, metric, mode)]
            rows[place] = row
    assert best is not None
    ordered = tuple(rows[place] for place in range(len(settings)))
    return Sweep(SweepTable(ordered, metric, mode, seeds, len(programs)), best)


def _require_step(step: Any) -> None:
    if not isinstance(step, TrainStep):
        raise ArgumentTypeError(
            f"`make_step` returned {step!r} of type {type(step).__name__}: it must return a "
            f"`treadle.TrainStep`."
        )
    if step.members is not None:
        raise ArgumentTypeError(
            "`make_step` returned an ensemble: `sweep` makes those itself. Return the single step."
        )


def _programs(
    settings: Sequence[Setting], traced: set[str], seeds: int, max_members: int | None
) -> list[list[tuple[int, Setting]]]:
    """Settings that are trained together, all seeds of one in the same program."""
    groups = grouped(settings, traced)
    if max_members is None:
        return groups
    most = max_members // seeds
    if not most:
        raise ArgumentValueError(
            f"`max_members` (={max_members}) is less than `seeds` (={seeds}), and the seeds of one "
            f"setting are trained together: allow at least {seeds}."
        )
    return [group[at : at + most] for group in groups for at in range(0, len(group), most)]


def _ensemble_of(
    members: list[tuple[Setting, int]],
    make_step: Callable[..., TrainStep],
    make_model: Callable[..., Model],
    keys: Any,
    traced: set[str],
) -> tuple[TrainStep, TrainState]:
    """The step and the first state of some runs."""
    first = members[0][0]
    base = make_step(**{name: first[name] for name in names_of(make_step, first)})
    step = ensemble(base, len(members), nonfinite="stop")
    wanted = {name: first[name] for name in names_of(make_model, first)}
    hyperparams = {
        name: np.array([setting[name] for setting, _ in members], np.float64)
        for name in sorted(traced)
    }
    order = jnp.array([seed for _, seed in members])
    make = functools.partial(make_model, **wanted)
    return step, step._init_members(make, keys[order], hyperparams or None)


def _figures(history: History, metric: str, members: int) -> dict[str, np.ndarray]:
    """The last figures, those of them that have one number for each member.

    Raises:
        ArgumentValueError: The one that is compared is not among them.
    """
    columns = history.eval or history.metrics
    last = {name: np.asarray(column[-1]) for name, column in columns.items()}
    found = {name: value for name, value in last.items() if value.shape == (members,)}
    if metric not in found:
        raise ArgumentValueError(
            f"`metric` (={metric!r}) is not among the figures: "
            f"{', '.join(map(repr, found)) or 'there are none with a number for each member'}."
        )
    return found


def _best_seed(row: SweepRow, metric: str, mode: str) -> int:
    values = np.asarray(row.values[metric])
    if np.isnan(values).all():
        return 0
    return int(np.nanargmin(values) if mode == "min" else np.nanargmax(values))
