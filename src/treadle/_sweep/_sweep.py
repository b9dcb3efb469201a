"""`sweep`: every setting of a grid, trained as few ensembles, compared in one table."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._checks import one_of, whole_number
from .._custom_types import Args, Batch, Door, KeyLike, Model
from .._ensemble import ensemble
from .._errors import ArgumentTypeError, ArgumentValueError, DataError
from .._loop import History, fit
from .._random import as_key, member_keys
from .._state import TrainState, joined, member_of
from .._step import TrainStep
from ._grid import Setting, names_of, require_known, settings_of
from ._programs import Planned, grouped
from ._table import SweepRow, SweepTable, rank, row_of


class Sweep(NamedTuple):
    """What a sweep gives.

    Attributes:
        table: Every setting with its figures; it prints as a table, best first.
        best_state: The state of the best setting's best seed, as of a single run: the step that
            `make_step` makes of `table.best.setting` trains it on.
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

    Settings whose steps trace to the same program are members of one ensemble, and so are all
    seeds. Numbers that `make_step` hands to `optax.inject_hyperparams` (a learning rate, a weight
    decay) are kept in the state, and do not change the program; others (a width, an activation, a
    number that the loss uses) do, and get one each. All of them see the same batches, and seed `i`
    begins with the same key in every setting. A run whose loss or gradient is NaN or infinite
    stands still from then on, and counts as diverged, unless the step says `nonfinite="skip"` or
    `"ignore"`.

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
        KeyboardInterrupt: A signal ended one of the trainings.
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
    plans = [
        _planned(place, setting, make_step, make_model) for place, setting in enumerate(settings)
    ]
    programs = _programs(grouped(plans, keys[0], _first_batch(data), args), seeds, max_members)
    rows: dict[int, SweepRow] = {}
    best: tuple[Any, TrainState] | None = None
    for group in programs:
        step, state = _ensemble_of(group, keys)
        state, history = fit(
            step,
            state,
            data() if callable(data) else data,
            num_steps=num_steps,
            args=args,
            eval=eval,
            log_every=num_steps,
            steps_per_call=steps_per_call,
            progress=progress,
        )
        _require_whole(history, state, num_steps)
        figures = _figures(history, metric, len(group) * seeds)
        lost = ~np.asarray(state.active)
        for index, planned in enumerate(group):
            own = slice(index * seeds, (index + 1) * seeds)
            values = {name: column[own] for name, column in figures.items()}
            row = rows[planned.place] = row_of(planned.setting, values, lost[own])
            # Of settings that are equally good, the first of the grid, as in the table.
            place = (*rank(row, metric, mode), planned.place)
            if best is None or place < best[0]:
                chosen = own.start + _best_seed(row, metric, mode)
                best = place, TrainState.from_parts(member_of(state.parts(), chosen))
    assert best is not None
    ordered = tuple(rows[place] for place in range(len(settings)))
    return Sweep(SweepTable(ordered, metric, mode, seeds, len(programs)), best[1])


def _planned(
    place: int,
    setting: Setting,
    make_step: Callable[..., TrainStep],
    make_model: Callable[..., Model],
) -> Planned:
    """A setting with its own step and its own model.

    Raises:
        ArgumentTypeError: `make_step` returned something else than a single step.
    """
    step: Any = make_step(**{name: setting[name] for name in names_of(make_step, setting)})
    if not isinstance(step, TrainStep):
        raise ArgumentTypeError(
            f"`make_step` returned {step!r} of type {type(step).__name__}: it must return a "
            f"`treadle.TrainStep`."
        )
    if step.members is not None:
        raise ArgumentTypeError(
            "`make_step` returned an ensemble: `sweep` makes those itself. Return the single step."
        )
    wanted = {name: setting[name] for name in names_of(make_model, setting)}
    return Planned(place, setting, step, functools.partial(make_model, **wanted))


def _first_batch(data: Any) -> Batch:
    """A batch to trace with.

    Raises:
        DataError: There is none, or it would be gone.
    """
    source: Any = data() if callable(data) else data
    if isinstance(source, Iterator) and not callable(data):
        raise DataError(
            "`data` is an iterator, which gives its batches once, and every program of a sweep "
            "begins with the first one: hand over a list, `treadle.data.arrays(...)`, or a "
            "function that makes the iterator."
        )
    for batch in source:
        return batch
    raise DataError("`data` is empty: there is nothing to train on.")


def _require_whole(history: History, state: TrainState, num_steps: int) -> None:
    """Refuses to compare trainings of which one was cut short.

    Raises:
        KeyboardInterrupt: A signal ended it.
        DataError: The data did.
    """
    if history.stopped is None or int(state.step) >= num_steps:
        return
    if "data ended" in history.stopped:
        raise DataError(
            f"`data` has too few batches for `num_steps` (={num_steps}): {history.stopped}. "
            f"Settings are compared after the same number of steps; `treadle.data.arrays(...)` "
            f"goes round."
        )
    raise KeyboardInterrupt(history.stopped)


def _programs(
    groups: list[list[Planned]], seeds: int, max_members: int | None
) -> list[list[Planned]]:
    """Settings that are trained together, all seeds of one in the same program."""
    if max_members is None:
        return groups
    most = max_members // seeds
    if not most:
        raise ArgumentValueError(
            f"`max_members` (={max_members}) is less than `seeds` (={seeds}), and the seeds of one "
            f"setting are trained together: allow at least {seeds}."
        )
    return [group[at : at + most] for group in groups for at in range(0, len(group), most)]


def _ensemble_of(group: list[Planned], keys: Any) -> tuple[TrainStep, TrainState]:
    """The step and the first state of all runs of a group; a member for each setting and seed."""
    seeds = keys.shape[0]
    states = [
        _stopping(planned.step, seeds)._init_members(planned.make_model, keys, None)
        for planned in group
    ]
    return _stopping(group[0].step, len(group) * seeds), joined(states)


def _stopping(step: TrainStep, members: int) -> TrainStep:
    """The ensemble of a step, in which a run that would raise stands still instead."""
    nonfinite = "stop" if step.nonfinite == "raise" else step.nonfinite
    return ensemble(step, members, nonfinite=nonfinite)


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
