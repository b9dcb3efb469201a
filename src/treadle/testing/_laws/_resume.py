"""What is interrupted ends as what is not."""

import collections
import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import equinox as eqx
from jaxtyping import PyTree

from ..._custom_types import Door
from ..._errors import ArgumentTypeError, ArgumentValueError
from ...checkpoint import load as treadle_load
from ...checkpoint import save as treadle_save
from ...data import BatchIterator
from ._law import Law, copied
from ._law import __tracebackhide__ as __tracebackhide__

Step = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
"""`(state, batch) -> (state, metrics)`, as a `treadle.TrainStep` is."""


def check_resume(
    step: Step,
    state: PyTree,
    batches: Door[Sequence[PyTree] | Callable[[], Iterable[PyTree]]],
    *,
    at: Door[int | None] = None,
    save: Callable[[pathlib.Path, PyTree], Any] = treadle_save,
    load: Callable[[pathlib.Path, PyTree], PyTree] = treadle_load,
) -> None:
    """Interrupted and continued is straight through, bit for bit.

    With `sᵢ₊₁, mᵢ = step(sᵢ, bᵢ)`: when `sₖ` is saved, and what is loaded takes the steps from `k`
    on, then the last state and all metrics `mₖ, …` are those of the run that nothing interrupted.
    So are those of a second run from the same state. What a step keeps outside of its state (a
    counter, a key, a moving average in a closure) is found out.

    Args:
        step: `step(state, batch) -> (state, metrics)`: a `treadle.TrainStep`, or your own. It may
            donate the state.
        state: Where the run starts. It stays as it is.
        batches: The batches, in a list; or a function that makes a source of them, which is asked
            for its position (`get_state`, at the interruption) and, made anew, put there
            (`set_state`), as those of `treadle.data` and Grain can be. It must end.
        at: Before which step the run is interrupted, `k`; by default each in turn.
        save: `save(path, tree)`, as in `check_serialisation`.
        load: `load(path, like) -> tree`.

    Raises:
        LawError: The ends differ, or metrics on the way; or a batch was changed in place.
        ArgumentValueError: There are fewer than two batches, or `at` is not among them.
        ArgumentTypeError: The source of batches cannot say where it is.

    Example:
        >>> check_resume(step, step.init(model, key=key), [batch, other, third])
    """
    law = Law("check_resume", ignored=("weak type",))
    make = batches if callable(batches) else None
    feed = list(batches() if callable(batches) else batches)
    if len(feed) < 2:
        raise ArgumentValueError(
            f"`batches` has {len(feed)} batches: a run that can be interrupted has two at least."
        )
    if at is not None and not isinstance(at, int):
        raise ArgumentTypeError(f"`at` (={at!r}) must be a whole number, or None for each in turn.")
    if at is not None and not 0 < at < len(feed):
        raise ArgumentValueError(f"`at` (={at}) must be from 1 to {len(feed) - 1}.")
    places = range(1, len(feed)) if at is None else [at]
    end, metrics = _run(law, step, copied(state), feed)
    with tempfile.TemporaryDirectory(prefix="treadle-") as folder:

        def path(place: int) -> pathlib.Path:
            return pathlib.Path(folder) / f"state-{place}"

        def saved(place: int, halfway: PyTree) -> None:
            if place in places:
                law.call("save", lambda inner: save(path(place), inner), halfway)

        # All are written before one is read: what a step keeps outside of its state is then as it
        # was at the end of a run, and not as it was there.
        again = _run(law, step, copied(state), feed, saved)
        _require_same_run(law, again, (end, metrics), "a second time from the same state")
        for place in places:
            loaded = law.call("load", lambda inner, at=place: load(path(at), inner), copied(state))
            rest = feed[place:] if make is None else _rest(make, place)
            if len(rest) != len(feed) - place:
                raise law.broken(
                    f"the source of batches, put back behind batch {place}, gives {len(rest)} "
                    f"more, and gave {len(feed) - place} straight through"
                )
            continued = _run(law, step, loaded, rest)
            when = f"interrupted before step {place}"
            _require_same_run(law, continued, (end, metrics[place:]), when)


_Ran = tuple[PyTree, list[PyTree]]
"""The last state, and the metrics of all steps."""


def _run(
    law: Law,
    step: Step,
    state: PyTree,
    feed: Sequence[PyTree],
    before: Callable[[int, PyTree], None] | None = None,
) -> _Ran:
    rows = []
    for place, batch in enumerate(feed):
        if before is not None:
            before(place, state)
        result = law.call("step", functools.partial(step, state), batch)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ArgumentTypeError(
                f"`step` returned {eqx.tree_pformat(result, width=60)}: it must return a pair, "
                "`(state, metrics)`; `None` will do for metrics."
            )
        state, metrics = result
        rows.append(metrics)
    return state, rows


def _require_same_run(law: Law, run: _Ran, straight: _Ran, when: str) -> None:
    law.require_same(run[1], straight[1], (f"metrics {when}", "those straight through"))
    law.require_same(run[0], straight[0], (f"the end of the run {when}", "that straight through"))


def _rest(make: Callable[[], Iterable[PyTree]], place: int) -> list[PyTree]:
    """What a source gives that is made anew and put to where another one was."""
    source = _positioned(make())
    for _ in range(place):
        next(source)
    position = source.get_state()
    collections.deque(source, maxlen=0)  # The position must not move on with the source.
    other = _positioned(make())
    other.set_state(position)
    return list(other)


def _positioned(source: Iterable[PyTree]) -> BatchIterator:
    iterator: Iterator[PyTree] = iter(source)
    if not isinstance(iterator, BatchIterator):
        raise ArgumentTypeError(
            f"`batches` makes a {type(iterator).__name__}, without `get_state` and `set_state`: "
            "give a list of batches, or a source such as `treadle.data.arrays(...)`."
        )
    return iterator
