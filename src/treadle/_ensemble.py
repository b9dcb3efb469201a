"""`ensemble`: many runs trained by one program."""

from ._checks import one_of, whole_number
from ._custom_types import Door
from ._errors import ArgumentTypeError
from ._step import TrainStep


def ensemble(
    step: Door[TrainStep],
    size: Door[int],
    *,
    shared_batches: bool = True,
    nonfinite: Door[str | None] = None,
) -> TrainStep:
    """A step that trains many members at once: seeds, initialisations, hyperparameters.

    The members share one program (through `eqx.filter_vmap`), and nothing else: each has its own
    parameters, optimizer state and random stream. Every leaf of the state has a leading axis of
    members, but for `step`; the metrics have one as well. `fit`, checkpoints, `evaluate` and
    `predict` take such a state as they take any.

    Member `i` is the single run `step.init(make_model, key=fold_in(fold_in(key, ENSEMBLE), i))`,
    with treadle's constant for ensembles ("ense" in ASCII), up to the order in which sums are
    added up: 1e-4 over 20 steps of a small network in float32 (never bit for bit).

    A member whose entry in `state.active` is `False` stands still bit for bit, while the others go
    on: `state = state.replace(active=losses < limit)`. The first time, the step compiles anew: a
    program in which no member stops is the faster one.

    Args:
        step: What each member does; it stays usable.
        size: The number of members.
        shared_batches: Whether all members get the same batch; with `False` every leaf of a batch
            is `(size, batch size, ...)`, and each member gets its own.
        nonfinite: As for `TrainStep`, whose choice it is without this; or `"stop"`: a member whose
            loss or gradient is NaN or infinite stands still from then on, as it was before, and
            the others go on.

    Raises:
        ArgumentTypeError: `step` is not a `TrainStep`, or is an ensemble already.
        ArgumentValueError: `size` is less than 1, or `nonfinite` is none of those words.

    Example:
        >>> optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3)
        >>> step = treadle.ensemble(treadle.TrainStep(loss_fn, optimizer), 8)
        >>> rates = np.geomspace(1e-4, 1e-1, 8)
        >>> state = step.init(make_model, key=key, hyperparams={"learning_rate": rates})
        >>> state, metrics = step(state, batch)  # metrics["loss"] has shape (8,)
    """
    if not isinstance(step, TrainStep):
        raise ArgumentTypeError(
            f"`step` is a {type(step).__name__}, not a `TrainStep`: write "
            f"`treadle.ensemble(treadle.TrainStep(loss_fn, optimizer), {size!r})`."
        )
    if step.members is not None:
        raise ArgumentTypeError(
            f"`step` is an ensemble of {step.members} already: make one of the single step, with "
            f"all the members there are to be."
        )
    if nonfinite is not None:
        one_of("nonfinite", nonfinite, ("raise", "skip", "ignore", "stop"))
    return step._ensemble(whole_number("size", size), shared_batches, nonfinite)
