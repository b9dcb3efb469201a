"""`TrainStep`: from the loss of one example to one compiled, donated program."""

import inspect
import time
import warnings
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax

from ._batch import num_examples
from ._cache import ensure_compilation_cache
from ._checks import one_of, whole_number
from ._compilations import CompilationLog
from ._compiled import Compilation, Compiled, measure
from ._custom_types import (
    Args,
    Batch,
    Door,
    KeyLike,
    LossFn,
    Metrics,
    Model,
)
from ._diagnose import abstract, annotate, compilation_counter, remember
from ._diagnose import explain as explaining
from ._errors import (
    ArgumentTypeError,
    ArgumentValueError,
    BatchError,
    ConsumedStateError,
    NonFiniteError,
)
from ._gradient import LossSpec
from ._init import initial_members, initial_state
from ._jaxpr import slow_in_a_loop
from ._loss import (
    LossCall,
    missing_args,
    require_signature,
    takes_args,
    unwanted_args,
    wants_args,
)
from ._members import advance_all
from ._migrate import migrated_state
from ._mistakes import explain
from ._precision import PrecisionLike, as_precision
from ._program import StepSpec
from ._random import as_key, member_keys
from ._state import (
    CONSUMED,
    NO_FAULT,
    Bundle,
    Parts,
    TrainState,
    pack_args,
)
from ._weighted import ZeroWeightWarning
from .tree._where import Where

# Reading the faults costs microseconds, so it is done this often; a fault stays until it is read.
_POLL_EVERY = 16


class TrainStep:
    """One training step: from the loss of one example to one compiled, donated program.

    Args:
        loss_fn: `loss_fn(model, example, key) -> loss | (loss, aux)`, for one example; treadle maps
            it over the batch. `loss` is a real scalar, `aux` a dictionary of names to numbers. Any
            of them may be a `treadle.Weighted` or (aux only) a `treadle.Sum`. It takes a keyword
            `args` where `step(..., args=...)` is used.
        optimizer: Any optax `GradientTransformation`. Its `init` and `update` run under standard
            dtype promotion, the loss under the mode that is on.
        batched: The loss gets the whole (micro)batch and one key, and returns its mean.
        stateful: The model has layers with a state (BatchNorm, SpectralNorm): the loss is
            `loss_fn(model, model_state, example, key) -> (loss | (loss, aux), model_state)`. The
            state is one for the whole batch; microbatches hand it on in order.
        trainable: What is trained: a filter function on leaves, a pytree of bools (a prefix of the
            model), a `treadle.tree.Selector`, or globs over leaf paths. Of what it chooses, arrays
            of floats are trained. The rest stays the same bit for bit, and has no optimizer state.
        accumulate: The number of microbatches inside one step; it must divide the batch size.
        precision: In which formats the model is kept and computes: a `treadle.Precision`, or the
            name of one: `"bf16"`, `"fp16"` (with dynamic loss scaling), `"bf16-true"`, `"f32"`.
        nonfinite: What to do about a loss or gradient that is NaN or infinite. `"raise"`: a later
            call, `check` or the end of `fit` raises `NonFiniteError`; nothing waits for the check.
            `"skip"`: that update is dropped inside the program, and counted in the metric
            `skipped`; model, optimizer, model state and average stay as they were bit for bit,
            the step's number goes on. `"ignore"`: nothing.
        ema: The decay of an averaged model, above 0 and below 1, such as 0.999; the average is
            `state.ema_model`, corrected for its start. One more copy of what is trained.
        donate: Whether the new state takes the memory of the old one.
        axis_name: The name of the mapped axis of examples, for collectives in the loss.
        unroll: How far the loops over microbatches and over the steps of `scan` are unrolled:
            a number, `True` for wholly, `None` for wholly on the CPU where the program holds
            convolutions (which XLA runs several times slower inside a loop), else not.

    Raises:
        ArgumentTypeError: `loss_fn` has another signature, or `optimizer` is none.
        ArgumentValueError: A number or word that is not one of those above.

    Example:
        >>> def loss_fn(model, example, key):
        ...     x, y = example
        ...     logits = model(x, key=key)
        ...     loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        ...     return loss, {"accuracy": jnp.argmax(logits) == y}
        >>> step = treadle.TrainStep(loss_fn, optax.adamw(1e-3))
        >>> state = step.init(model, key=jax.random.key(0))
        >>> state, metrics = step(state, batch)
    """

    def __init__(
        self,
        loss_fn: Door[LossFn],
        optimizer: Door[optax.GradientTransformation],
        *,
        batched: bool = False,
        stateful: bool = False,
        trainable: Door[Where] = eqx.is_inexact_array,
        accumulate: Door[int] = 1,
        precision: Door[PrecisionLike] = None,
        nonfinite: Door[str] = "raise",
        ema: Door[float | None] = None,
        donate: bool = True,
        axis_name: str = "batch",
        unroll: Door[bool | int | None] = None,
    ):
        state = ("model_state",) if stateful else ()
        example = "batch" if batched else "example"
        require_signature(loss_fn, "loss_fn", ("model", *state, example, "key"))
        whole_number("accumulate", accumulate)
        if unroll is not None and not isinstance(unroll, bool):
            whole_number("unroll", unroll, otherwise=", a bool, or None")
        one_of("nonfinite", nonfinite, ("raise", "skip", "ignore"))
        optimizer = _as_optimizer(optimizer)
        call = LossCall(loss_fn, batched, stateful, axis_name, as_precision(precision))
        self._setup(
            StepSpec(
                loss=LossSpec(call, accumulate, unroll),
                optimizer=optax.with_extra_args_support(optimizer),
                extra=_extra_arguments(optimizer),
                trainable=trainable,
                nonfinite=nonfinite,
                ema=_decay(ema),
                members=None,
                shared_batches=True,
            ),
            donate,
        )

    def _setup(self, spec: StepSpec, donate: bool) -> None:
        self._spec = spec
        self._takes_args = takes_args(spec.loss.call.loss_fn)
        self._wants_args = wants_args(spec.loss.call.loss_fn)
        self._donate = donate
        self._log = CompilationLog(axis=0 if spec.shared_batches else 1)
        self._calls = 0
        # Any: `is_ready` is not in JAX's type stubs.
        self._faults: Any = None
        self._older_faults: Any = None
        # The state that came back last, by its `id`: faults of another are not this one's.
        self._newest: int | None = None
        self._xla = compilation_counter()
        self._zero_weight_told = False
        self._pure = eqx.filter_jit(self._advance)
        donated = (0,) if donate else ()
        self._step = jax.jit(self._traced_step, donate_argnums=donated)
        self._scan = jax.jit(self._traced_scan, donate_argnums=donated)

    def _ensemble(self, size: int, shared_batches: bool, nonfinite: str | None) -> "TrainStep":
        """The same step for many members at once: see `treadle.ensemble`."""
        step = object.__new__(TrainStep)
        spec = self._spec._replace(members=size, shared_batches=shared_batches)
        step._setup(spec._replace(nonfinite=nonfinite or spec.nonfinite), self._donate)
        return step

    def init(
        self,
        model: Model,
        *,
        key: Door[KeyLike],
        model_state: Any = None,
        hyperparams: Door[Mapping[str, Any] | None] = None,
        copy: bool = True,
    ) -> TrainState:
        """The state before the first step.

        Args:
            model: The model, or a function that makes it, called without arguments or with a key
                that is derived from `key`. NumPy arrays in it become JAX arrays. For an ensemble a
                function that makes one member, or a model that all begin with, or a list of models.
            key: The root of all the randomness of the run. It is not consumed, nor stored: the
                state keeps `fold_in(key, treadle's constant for training)`.
            model_state: With `stateful=True`, the state of the model's layers, the second of what
                `eqx.nn.make_with_state(Net)(...)` returns; not needed where `model` is a function
                that returns both.
            hyperparams: Numbers for what `optax.inject_hyperparams` injects, by name; for an
                ensemble an array with one for each member.
            copy: Whether the state gets memory of its own, so that `model` stays usable; `False`
                takes ownership, for models that fill the memory.

        Raises:
            ArgumentTypeError: `key` is not a key; `model_state` is missing, or not wanted.
            ArgumentValueError: The optimizer does not have one of the hyperparameters.
            TreeError: The model has nothing to train, or the members of an ensemble differ.
        """
        # What follows compiles a dozen small programs.
        ensure_compilation_cache()
        key = as_key(key)
        with explaining():
            if self._spec.members is None:
                return initial_state(self._spec, model, key, copy, model_state, hyperparams)
            keys = member_keys(key, self._spec.members)
            return initial_members(self._spec, model, keys, model_state, hyperparams)

    def _init_members(
        self, model: Any, keys: Any, hyperparams: Mapping[str, Any] | None
    ) -> TrainState:
        """As `init` for an ensemble, with a key for each member."""
        ensure_compilation_cache()
        return initial_members(self._spec, model, keys, None, hyperparams)

    def __call__(
        self, state: Door[TrainState], batch: Batch, *, args: Args | None = None
    ) -> tuple[TrainState, Metrics]:
        """One step: compiled at the first call, and again where shapes or dtypes change.

        Nothing waits for the device. The state is donated: use the one that comes back.

        Args:
            state: What `init` or the step before gave.
            batch: A pytree of arrays (NumPy or JAX) that share their leading axis, the examples.
            args: What is the same for all examples, handed to the loss as `args`: not donated, not
                differentiated, not mapped over.

        Returns:
            The next state, and the metrics as device scalars: `loss`, every entry of aux, and
            `grad_norm` (the norm of the gradient before the optimizer sees it).

        Raises:
            ConsumedStateError: The state was donated to an earlier step.
            BatchError: The batch is not one.
            ArgumentValueError: `accumulate` does not divide the batch size.
            ArgumentTypeError: `state` is none, or `args` is missing or not wanted.
            TreeError: The state belongs to another optimizer or model.
            LossError: The loss is not a real scalar, or its aux are not numbers.
            NonFiniteError: An earlier step met a NaN or an infinity (`nonfinite="raise"`).
        """
        return self._dispatch(self._step, "step", state, batch, args)

    def scan(
        self, state: Door[TrainState], batches: Batch, *, args: Args | None = None
    ) -> tuple[TrainState, Metrics]:
        """K steps in one dispatch.

        Args:
            state: As for a call.
            batches: K batches stacked on a new leading axis.
            args: As for a call, the same for all K.

        Returns:
            The state after K steps, and the metrics, each with a leading axis of K.

        Raises:
            As a call does.
        """
        return self._dispatch(self._scan, "scan", state, batches, args)

    def pure(
        self, state: Door[TrainState], batch: Batch, *, args: Args | None = None
    ) -> tuple[TrainState, Metrics]:
        """One step as a pure function, for your own `jax.jit`, `vmap` and `scan`.

        It is neither compiled nor donated.

        Raises:
            As a call does, except `NonFiniteError`: ask `check(state)`.
        """
        self._require_arguments(state, args)
        with explaining():
            new, metrics = advance_all(self._spec, state.parts(), batch, args)
        return _repacked(state, new), metrics

    def migrate(
        self,
        state: Door[TrainState],
        new_model: Model,
        *,
        model_state: Any = None,
        old_step: "Door[TrainStep | None]" = None,
    ) -> TrainState:
        """The state for a model that was changed: what is still valid in it is kept.

        Layers may have been added, removed, moved, resized; those that the old model has as well
        keep their moments in the optimizer bit for bit, and their averages. Which leaves those are,
        and what becomes of an optimizer's other state, is said at `treadle.tree.migrate`. A leaf
        that is new joins the averaged model at its own value. The key, the number of the step, the
        loss scale, the count of skipped steps and a fault that nobody was told of yet are kept.

        Nothing is shared with `state` and `new_model`, which stay usable.

        Args:
            state: The state before.
            new_model: The model after, made from `state.model`, so that what is unchanged is the
                same array: `eqx.tree_at(where, state.model, ...)`.
            model_state: With `stateful=True`, the state of layers that are new, the second of what
                `eqx.nn.make_with_state(Layer)(...)` returns; of what both have it goes before the
                old state. Layers that were there before keep theirs.
            old_step: The step that made `state`, if it was another: one with another `trainable`,
                or another optimizer, of whose state those parts are kept that this one has in the
                same place.

        Returns:
            A state of the structure that `init` gives for `new_model`.

        Raises:
            ConsumedStateError: The state, or what `new_model` was made from, was donated to a step.
            TreeError: The state belongs to another optimizer or model, the new model has nothing to
                train, it has stateful layers whose state is nowhere, or the step is an ensemble's.
            ArgumentTypeError: `state` or `old_step` is none, `new_model` is a function, or
                `model_state` is not wanted.

        Example:
            >>> head = eqx.nn.Linear(64, 12, key=key)  # two classes more
            >>> state = step.migrate(state, eqx.tree_at(lambda m: m.head, state.model, head))
        """
        _require_state(state)
        if old_step is not None and not isinstance(old_step, TrainStep):
            raise ArgumentTypeError(
                f"`old_step` is a {type(old_step).__name__}, not a `TrainStep`: give the step that "
                f"made `state`, or leave it out where it was this one."
            )
        ensure_compilation_cache()
        old_spec = self._spec if old_step is None else old_step._spec
        return migrated_state(self._spec, old_spec, state, new_model, model_state)

    def compile(
        self, state: Door[TrainState], batch: Batch, *, args: Args | None = None
    ) -> Compiled:
        """Compiles the step without running it.

        Args:
            state: A state, or one whose leaves are `jax.ShapeDtypeStruct`s, such as
                `eqx.filter_eval_shape(step.init, model, key=key)` gives.
            batch: Arrays or `jax.ShapeDtypeStruct`s.
            args: As for a call.

        Returns:
            The program, with its flops, bytes, peak memory, and what was donated and aliased.

        Raises:
            As a call does.
        """
        self._require_arguments(state, args)
        ensure_compilation_cache()
        packed = None if args is None else pack_args(args)
        known = len(self._log.entries)
        start = time.perf_counter()
        program = None
        try:
            program = self._step.trace(state, batch, packed)
            lowered = program.lower()
            traced = time.perf_counter()
            executable = lowered.compile()
        except Exception as error:
            annotate(error, None if program is None else lambda: program.jaxpr)
            raise
        done = time.perf_counter()
        given = {"state": state, "batch": batch, "args": packed}
        self._log.complete("step", known, done - start, ahead=True, **given)
        seconds = (traced - start, done - traced)
        return measure(executable, self._donate, *seconds, program.jaxpr)

    @property
    def members(self) -> int | None:
        """How many members an ensemble has; `None` for a single run."""
        return self._spec.members

    @property
    def nonfinite(self) -> str:
        """What becomes of a loss or gradient that is NaN or infinite."""
        return self._spec.nonfinite

    @property
    def shared_batches(self) -> bool:
        """Whether all members of an ensemble get the same batch; `True` for a single run."""
        return self._spec.shared_batches

    @property
    def compilations(self) -> tuple[Compilation, ...]:
        """Every program this step has compiled, and why: also logged, by the logger "treadle"."""
        return tuple(self._log.entries)

    def check(self, state: Door[TrainState] | None = None) -> None:
        """Waits for the steps under way, and raises what they met.

        Args:
            state: The state to look at; without it, the outcome of the newest call.

        Raises:
            NonFiniteError: A loss or gradient was NaN or infinite, and `nonfinite="raise"`.
            ZeroWeightWarning: (A warning.) All weights of a figure were 0.
            ConsumedStateError: The state was donated to an earlier step.
        """
        faults = self._faults if state is None else state.parts().faults
        self._faults = self._older_faults = None  # Told once; the state keeps them.
        if faults is not None:
            with explaining():
                self._tell(np.asarray(faults))

    # -- inside the program -------------------------------------------------------------------

    def _advance(
        self, state: TrainState, batch: Batch, args: Bundle | None
    ) -> tuple[TrainState, Metrics]:
        unpacked = None if args is None else args.unpack()
        new, metrics = advance_all(self._spec, state.parts(), batch, unpacked)
        return _repacked(state, new), metrics

    def _traced_step(
        self, state: TrainState, batch: Batch, args: Bundle | None
    ) -> tuple[TrainState, Metrics, jax.Array]:
        self._log.record("step", state=state, batch=batch, args=args)
        new, metrics = self._pure(state, batch, args)
        return new, metrics, new.leaves[-1]

    def _traced_scan(
        self, state: TrainState, batches: Batch, args: Bundle | None
    ) -> tuple[TrainState, Metrics, jax.Array]:
        count = num_examples(batches, "batches")
        if any(leaf.ndim < 2 for leaf in jax.tree.leaves(batches)):
            raise BatchError(
                "`batches` must be batches stacked on a new leading axis, so that every leaf has "
                "two axes at least: `jax.tree.map(lambda *leaves: np.stack(leaves), *batches)`."
            )
        self._log.record(f"scan of {count}", state=state, batch=batches, args=args)

        def body(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            return self._pure(state, batch, args)

        unroll = self._spec.loss.unroll
        if unroll is None:
            first = jax.tree.map(lambda leaf: leaf[0], batches)
            unroll = slow_in_a_loop(jax.make_jaxpr(body)(state, first).jaxpr)
        new, metrics = jax.lax.scan(body, state, batches, unroll=unroll)
        return new, metrics, new.leaves[-1]

    # -- around the program -------------------------------------------------------------------

    def _replayed(
        self, state: TrainState, batch: Batch, args: Args | None
    ) -> tuple[TrainState, Metrics]:
        """As a call, of whose outcome nobody is told: the state that comes back has it."""
        return self._dispatch(self._step, "step", state, batch, args, watched=False)

    def _dispatch(
        self,
        program: Any,
        name: str,
        state: Door[TrainState],
        batch: Batch,
        args: Args | None,
        *,
        watched: bool = True,
    ) -> tuple[TrainState, Metrics]:
        packed = None
        if args is not None:
            self._require_arguments(state, args)
            packed = pack_args(args)
        elif self._wants_args:
            raise missing_args(self._spec.loss.call.loss_fn)
        known, compiled = len(self._log.entries), self._xla.count
        start = time.perf_counter()
        try:
            # Asked before XLA is, which would print a log line of its own, and before a failing
            # program consumes the state itself; any leaf will do.
            if state.leaves[-1].is_deleted():
                raise ConsumedStateError(CONSUMED)
            new, metrics, faults = program(state, batch, packed)
        except Exception as error:
            self._log.forget(known)
            self._require_arguments(state, args)
            explain(error, name, state, batch, args)
            annotate(error, lambda: self._traced(name, state, batch, packed))
            raise
        if self._xla.count != compiled:
            seconds = time.perf_counter() - start
            self._log.complete(name, known, seconds, state=state, batch=batch, args=packed)
            remember(self._traced, name, state, batch, packed)
        if not watched:
            return new, metrics
        if id(state) != self._newest:
            self._older_faults = None
        self._newest, self._faults = id(new), faults
        self._calls += 1
        if not self._calls % _POLL_EVERY:
            self._poll()
        return new, metrics

    def _traced(self, name: str, *arguments: Any) -> Any:
        """The traced program of a call that failed; JAX has it still, and nothing runs."""
        known, program = len(self._log.entries), self._step if name == "step" else self._scan
        try:
            return program.trace(*abstract(arguments)).jaxpr
        finally:
            self._log.forget(known)

    def _poll(self) -> None:
        """Reads the faults of some calls ago: the newest are seldom ready, and nothing waits."""
        oldest = self._faults if self._older_faults is None else self._older_faults
        if oldest.is_ready():
            self._older_faults = None
            with explaining():
                self._tell(np.asarray(oldest))
        elif self._older_faults is None:
            self._older_faults = self._faults

    def _require_arguments(self, state: Any, args: Args | None) -> None:
        """Refuses what is not a state, and `args` for a loss that takes none.

        Raises:
            ArgumentTypeError: With the way out.
        """
        _require_state(state)
        if args is not None and not self._takes_args:
            raise unwanted_args(self._spec.loss.call.loss_fn)
        if args is None and self._wants_args:
            raise missing_args(self._spec.loss.call.loss_fn)

    def _tell(self, faults: np.ndarray) -> None:
        rows = faults.reshape(-1, 2)
        nonfinite, empty = (_first(rows[:, column]) for column in (0, 1))
        if nonfinite is not None and self._spec.nonfinite == "raise":
            members = np.flatnonzero(rows[:, 0] != NO_FAULT) if faults.ndim > 1 else None
            more = ", args=args" if self._wants_args else ""
            message = _nonfinite_message(nonfinite, members, self._spec.counts_skipped, more)
            raise NonFiniteError(message, nonfinite)
        if empty is not None and not self._zero_weight_told:
            self._zero_weight_told = True
            warnings.warn(
                f"In step {empty}, all weights of a `treadle.Weighted` figure were 0: the figure "
                f"counts as 0, and if it is the loss, nothing was learned from that batch. Are the "
                f"examples masked out by mistake? (Said once.)",
                ZeroWeightWarning,
                stacklevel=4,
            )


def _first(steps: np.ndarray) -> int | None:
    """The earliest of the steps with a fault, if any has one."""
    found = steps[steps != NO_FAULT]
    return int(found.min()) if found.size else None


def _nonfinite_message(step: int, members: np.ndarray | None, scaled: bool, more: str) -> str:
    where = "" if members is None else f" (of the members {', '.join(map(str, members))})"
    since = (
        "its update was dropped, where the gradient was not finite, and the steps since went on"
        if scaled
        else "the steps since have trained on what it left"
    )
    return (
        f"The loss or the gradient of step {step}{where} is NaN or infinite, and {since}. "
        f"`state, batch = treadle.replay(run, step, state=step.init(model, key=key), "
        f"data=data, at={step}{more})` brings back the state before it and its batch, bit for bit "
        f"(`state.copy()` does, in a loop of your own); "
        f"`print(treadle.explain_nonfinite(step, state, batch{more}))` names the operation in "
        f"which it began, and your line. "
        f"`TrainStep(..., nonfinite='skip')` drops such updates, 'ignore' lets them be."
    )


def _require_state(state: Any) -> None:
    if not isinstance(state, TrainState):
        raise ArgumentTypeError(
            f"`state` is a {type(state).__name__}, not a `TrainState`: make one with "
            f"`state = step.init(model, key=jax.random.key(0))`."
        )


def _repacked(old: TrainState, new: Parts) -> TrainState:
    """The new parts in the order and under the skeleton of the old state."""
    leaves = [
        leaf
        for part, tree in zip(old.skeleton.parts, new, strict=True)
        for slot, leaf in zip(part.slots, jax.tree.leaves(tree), strict=True)
        if slot is not None
    ]
    return TrainState(tuple(leaves), old.skeleton)


def _decay(ema: Any) -> float | None:
    """The decay of an average.

    Raises:
        ArgumentTypeError: It is no number.
        ArgumentValueError: It is not above 0 and below 1.
    """
    if ema is None:
        return None
    if isinstance(ema, bool) or not isinstance(ema, (int, float, np.floating)):
        raise ArgumentTypeError(
            f"`ema` (={ema!r}) is a {type(ema).__name__}: give the decay of the average, a number "
            f"such as 0.999, or None."
        )
    if not 0 < ema < 1:
        raise ArgumentValueError(
            f"`ema` (={ema!r}) must lie in (0, 1): it is the decay of the average, which looks "
            f"back about 1 / (1 - ema) steps. 0.999 is usual; None averages nothing."
        )
    return float(ema)


def _as_optimizer(optimizer: Any) -> optax.GradientTransformation:
    """An optax optimizer.

    Raises:
        ArgumentTypeError: If it is none.
    """
    if isinstance(optimizer, optax.MultiSteps):
        # Not its `gradient_transformation()`, which hides that `update` takes extra arguments.
        update: Any = optimizer.update
        optimizer = optax.GradientTransformationExtraArgs(optimizer.init, update)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ArgumentTypeError(
            f"`optimizer` (={optimizer!r}) is a {type(optimizer).__name__}, not an optax "
            f"optimizer. Write `optax.adamw(1e-3)`, or any other `optax.GradientTransformation`."
        )
    return optimizer


def _extra_arguments(optimizer: optax.GradientTransformation) -> frozenset[str] | None:
    """The extra arguments that an update takes by name; `None` where it takes any.

    `optax.contrib.sam` takes `grad_fn`, and refuses all others.
    """
    if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return frozenset()
    parameters = inspect.signature(optimizer.update).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)
