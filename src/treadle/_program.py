"""One step as a pure function: parts of a state and a batch in, the next parts and metrics out."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ._average import averaged
from ._batch import is_batch_leaf
from ._custom_types import Args, Batch, Flag, Metrics
from ._errors import ArgumentTypeError, LossError, TreeError
from ._finite import all_finite
from ._gradient import Gradient, LossOfBatch, LossSpec, require_divisible
from ._hyperparams import hyperparams_of
from ._norm import tree_norm
from ._precision import Precision, widened
from ._random import rounding_key, step_key
from ._rounding import narrowed
from ._scaling import is_lowest, next_scale, with_scaled_derivative
from ._state import NO_FAULT, Parts
from ._trainable import trainable_mask
from .tree._paths import flatten_with_paths
from .tree._where import Where


class StepSpec(NamedTuple):
    """Everything that a step was made with.

    `extra` names the keyword arguments that the optimizer's update takes; `members` is the size of
    an ensemble, `None` for a single run.
    """

    loss: LossSpec
    optimizer: optax.GradientTransformationExtraArgs
    extra: frozenset[str] | None
    trainable: Where
    nonfinite: str
    ema: float | None
    members: int | None
    shared_batches: bool

    @property
    def precision(self) -> Precision | None:
        """In which formats it computes."""
        return self.loss.call.precision

    @property
    def counts_skipped(self) -> bool:
        """Whether it may drop updates, and so counts them."""
        scaled = self.precision is not None and self.precision.loss_scale is not None
        return scaled or self.nonfinite == "skip"


class optax_promotion:
    """Optax's own arithmetic runs under standard promotion, whatever the user has switched on.

    Its `init` and `update` mix dtypes and ranks, and fail under strict promotion.
    """

    def __enter__(self) -> None:
        self._modes = (
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        )
        for mode in self._modes:
            mode.__enter__()

    def __exit__(self, *exception: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*exception)


class _user_promotion:
    """The modes that were on before `optax_promotion`, for the loss that a line search calls."""

    def __init__(self) -> None:
        config: Any = jax.config  # Its options are not in JAX's type stubs.
        self._dtype = config.jax_numpy_dtype_promotion
        self._rank = config.jax_numpy_rank_promotion

    def __call__(self, function: Any) -> Any:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with (
                jax.numpy_dtype_promotion(self._dtype),
                jax.numpy_rank_promotion(self._rank),
            ):
                return function(*args, **kwargs)

        return wrapped


def advance(spec: StepSpec, parts: Parts, batch: Batch, args: Args | None) -> tuple[Parts, Metrics]:
    """One step.

    Returns:
        The next parts, of the same structure, shapes and dtypes; and the metrics: `loss`, every
        entry of aux, `grad_norm`, and what the options add.
    """
    require_divisible(batch, spec.loss.accumulate)
    mask = trainable_mask(spec.trainable, parts.model)
    trainable, frozen = eqx.partition(parts.model, mask)
    key = step_key(parts.key.typed(), parts.step)
    loss = LossOfBatch(spec.loss, frozen, parts.model_state, batch, key, args)
    scale = None if parts.loss_scale is None else parts.loss_scale.scale
    gradient = loss.gradient(trainable, scale)
    with optax_promotion():
        norm = tree_norm(gradient.grads)
    updated, opt_state = _update(spec, parts, trainable, gradient, loss)
    health = _Health.of(spec, parts, gradient, norm)
    average = (parts.ema_model, parts.ema_updates)
    if spec.ema is not None:
        # A count of its own: not every step updates, and `state.step` can be set.
        updates = parts.ema_updates + 1
        average = (averaged(parts.ema_model, updated, spec.ema, updates), updates)
    new = (updated, opt_state, gradient.model_state, average)
    old = (trainable, parts.opt_state, parts.model_state, (parts.ema_model, parts.ema_updates))
    if health.counts is not None:
        new = _select(health.counts, new, old)
    updated, opt_state, model_state, (ema_model, ema_updates) = new
    advanced = Parts(
        model=eqx.combine(updated, frozen),
        opt_state=opt_state,
        model_state=model_state,
        ema_model=ema_model,
        ema_updates=ema_updates,
        loss_scale=health.loss_scale,
        skipped=health.skipped,
        active=health.active,
        members=parts.members,
        key=parts.key,
        step=parts.step + 1,
        faults=_note(parts.faults, health.fault, _empty(gradient, parts), parts.step),
    )
    return advanced, _metrics(gradient, norm, parts, advanced)


class _Health(NamedTuple):
    """What a step makes of numbers that are not finite.

    Attributes:
        fault: Whether something went wrong that is to be told; `None` where nobody looks.
        counts: Whether the update counts, or is dropped; `None` where it always does.
        loss_scale: The next one.
        skipped: How many updates were dropped so far.
        active: Whether this member of an ensemble goes on; `None` while all do.
    """

    fault: Flag | None
    counts: Flag | None
    loss_scale: Any
    skipped: Any
    active: Any

    @staticmethod
    def of(spec: StepSpec, parts: Parts, gradient: Gradient, norm: jax.Array) -> "_Health":
        policy = None if spec.precision is None else spec.precision.loss_scale
        fault = counts = None
        loss_scale, skipped = parts.loss_scale, parts.skipped
        if spec.nonfinite != "ignore" or policy is not None:
            loss_ok, gradient_ok = jnp.isfinite(gradient.loss), _is_finite(gradient, norm)
            fault = ~(loss_ok & gradient_ok)
            if policy is not None:
                # A gradient that overflows is what a scale is backed off for, and no fault, unless
                # that has an end.
                fault = ~loss_ok | (~gradient_ok & is_lowest(policy, parts.loss_scale))
                counts = gradient_ok
                loss_scale = next_scale(policy, parts.loss_scale, gradient_ok)
            if spec.nonfinite in ("skip", "stop"):
                counts = loss_ok & gradient_ok
            if spec.nonfinite == "ignore":
                fault = None
        if skipped is not None and counts is not None:
            skipped = skipped + (~counts).astype(skipped.dtype)
        active = parts.active
        if active is not None and fault is not None and spec.nonfinite == "stop":
            active = active & ~fault
        if parts.active is not None:
            counts = parts.active if counts is None else counts & parts.active
            fault = None if fault is None else fault & parts.active
            loss_scale, skipped = _select(
                parts.active, (loss_scale, skipped), (parts.loss_scale, parts.skipped)
            )
        return _Health(fault, counts, loss_scale, skipped, active)


def _metrics(gradient: Gradient, norm: jax.Array, before: Parts, after: Parts) -> Metrics:
    """The figures of one step.

    Raises:
        LossError: An aux has the name of a figure that an option adds.
    """
    own: Metrics = {"loss": gradient.loss, "grad_norm": norm}
    own |= {
        name: jnp.asarray(value)
        for name, value in hyperparams_of(after.opt_state).items()
        if jnp.ndim(value) == 0
    }
    if before.loss_scale is not None:
        own["loss_scale"] = before.loss_scale.scale
    if after.skipped is not None:
        own["skipped"] = after.skipped
    taken = sorted(set(own) & set(gradient.figures))
    if taken:
        raise LossError(
            f"The aux of the loss has an entry {taken[0]!r}, but the step has a figure of that "
            f"name here (`loss_scale` and `skipped` where steps may be dropped, and what "
            f"`optax.inject_hyperparams` injects). Call yours something else."
        )
    norm = own.pop("grad_norm")
    return {"loss": own.pop("loss"), **gradient.figures, **own, "grad_norm": norm}


def _update(
    spec: StepSpec, parts: Parts, trainable: PyTree, gradient: Gradient, loss: LossOfBatch
) -> tuple[PyTree, PyTree]:
    """The optimizer's update: in float32 where a precision was chosen, else as the model is."""
    master = optimized(spec, trainable)
    with optax_promotion():
        _require_own_state(spec, master, parts.opt_state)
    scale = None if parts.loss_scale is None else parts.loss_scale.scale
    extra = _extra_arguments(spec, gradient, loss, scale)
    with optax_promotion():
        try:
            updates, opt_state = spec.optimizer.update(
                gradient.grads, parts.opt_state, master, **extra
            )
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise ArgumentTypeError(_refused(str(error), extra)) from error
        _require_own_shapes(master, updates)
        updated = optax.apply_updates(master, updates)
    rounding = None
    if spec.precision is not None and spec.precision.stochastic_rounding:
        rounding = rounding_key(parts.key.typed(), parts.step)
    updated = narrowed(updated, trainable, rounding)
    return updated, _same_types("opt_state", parts.opt_state, opt_state)


def _require_own_shapes(params: PyTree, updates: PyTree) -> None:
    """An update that is broadcast to its parameter would train something else, and say nothing."""

    def misfit(param: Any, update: Any) -> str | None:
        if param is None or update is None or jnp.shape(param) == jnp.shape(update):
            return None
        return f"{jnp.shape(update)} for an array of shape {jnp.shape(param)}"

    misfits = jax.tree.map(misfit, params, updates, is_leaf=lambda leaf: leaf is None)
    wrong = flatten_with_paths(misfits)[0]
    if wrong:
        path, shapes = wrong[0]
        raise TreeError(
            f"`optimizer` gives updates of other shapes than the parameters have, {len(wrong)} in "
            f"all; the first, at {path!r}, is of shape {shapes}. One that wants the gradient of "
            f"every example (`optax.contrib.dpsgd`) does so: a step hands out their mean."
        )


def _refused(message: str, extra: Mapping[str, Any]) -> str:
    return (
        f"A part of `optimizer` refused an extra argument: {message}. `optax.chain`, "
        f"`optax.partition` and other wrappers hand all that treadle gives "
        f"({', '.join(map(repr, extra))}) to every part, so each must take `**extra_args`. "
        f"`optax.contrib.sam` takes none but `grad_fn`: put it outermost, "
        f"`optax.contrib.sam(optax.chain(...), adversary, opaque_mode=True)`."
    )


def _extra_arguments(
    spec: StepSpec, gradient: Gradient, loss: LossOfBatch, scale: jax.Array | None
) -> dict[str, Any]:
    """What the optimizer's update gets besides gradient and parameters, if it takes it."""
    promotion = _user_promotion()

    # Line searches refuse any argument that their `value_fn` does not take.
    def value_fn(params: PyTree, grad_fn: Any = None, obj_fn: Any = None) -> jax.Array:
        return with_scaled_derivative(loss.value, scale)(params)

    def grad_fn(params: PyTree, _: Any = None) -> PyTree:
        return loss.gradient(params, scale).grads

    available = {
        "value": gradient.loss,
        "grad": gradient.grads,
        "value_fn": promotion(value_fn),
        # Of sharpness-aware minimisation, and of Sophia's estimate of the curvature.
        "grad_fn": promotion(grad_fn),
        "obj_fn": promotion(value_fn),
    }
    if spec.extra is None:
        return available
    return {name: value for name, value in available.items() if name in spec.extra}


def optimized(spec: StepSpec, trainable: PyTree) -> PyTree:
    """The trained leaves as the optimizer gets them."""
    return trainable if spec.precision is None else widened(trainable)


def _require_own_state(spec: StepSpec, trainable: PyTree, opt_state: PyTree) -> None:
    """Refuses the state of another optimizer, or for another model.

    Raises:
        TreeError: If the shapes are not those that this optimizer begins with.
    """
    own = eqx.filter_eval_shape(spec.optimizer.init, trainable)
    expected, given = (
        {path: jnp.shape(leaf) for path, leaf in flatten_with_paths(tree)[0] if is_batch_leaf(leaf)}
        for tree in (own, opt_state)
    )
    if expected != given:
        strange = [path for path in given if expected.get(path) != given[path]]
        missing = [path for path in expected if path not in given]
        raise TreeError(
            f"The state's `opt_state` does not fit this step's optimizer and model: it lacks "
            f"{missing or 'nothing'}, and has {strange or 'nothing'} that does not belong there. "
            f"Use the state with the step that made it, or start one with `step.init`."
        )


def _same_types(name: str, old: PyTree, new: PyTree) -> PyTree:
    """`new` without weak types; a change of structure, shape or dtype is refused.

    Raises:
        TreeError: If the optimizer gives back a state of other types than it was given: every step
            would compile anew.
    """
    was, treedef = flatten_with_paths(old)
    now = jax.tree.leaves(new)
    if jax.tree.structure(new) != treedef:
        raise TreeError(
            f"The optimizer's update changed the structure of `{name}`, from {treedef} to "
            f"{jax.tree.structure(new)}: an optimizer must give back a state of the structure that "
            f"it was given."
        )
    leaves = []
    for (path, before), after in zip(was, now, strict=True):
        if not eqx.is_array(before):
            leaves.append(before)
            continue
        after = jnp.asarray(after)
        if after.shape != before.shape or after.dtype != before.dtype:
            raise TreeError(
                f"The optimizer's update turned {name}/{path} from {before.dtype}"
                f"{list(before.shape)} into {after.dtype}{list(after.shape)}: its state must keep "
                f"its shapes and dtypes, or every step compiles anew. Was the state made by this "
                f"optimizer, for this model?"
            )
        # Weak types too would make the second step compile anew.
        leaves.append(jax.lax.convert_element_type(after, before.dtype))
    return jax.tree.unflatten(treedef, leaves)


def _is_finite(gradient: Gradient, norm: jax.Array) -> Flag:
    """The gradient is finite; a norm that overflows over finite gradients is no fault."""
    # `stop_gradient`: a `custom_vmap` has no derivative, and none is wanted of a flag.
    norm, leaves = jax.lax.stop_gradient((norm, jax.tree.leaves(gradient.grads)))
    return all_finite(norm, leaves)


def _empty(gradient: Gradient, parts: Parts) -> Flag | None:
    """Whether a figure had no weight at all; what a member that stands still sees is no fault."""
    if gradient.empty is None or parts.active is None:
        return gradient.empty
    return gradient.empty & parts.active


def _note(
    known: jax.Array, fault: jax.Array | None, empty: jax.Array | None, step: jax.Array
) -> jax.Array:
    """Writes the step where there is a fault, unless an earlier one is there already.

    `None` stands for what cannot happen in this program, which then does not look.
    """
    if fault is None and empty is None:
        return known
    faults = jnp.stack(
        [
            jnp.bool_(False) if fault is None else fault,
            jnp.bool_(False) if empty is None else empty,
        ]
    )
    first = (known == NO_FAULT) & faults
    return jnp.where(first, jnp.broadcast_to(step, known.shape), known)


def _select(condition: Flag, new: PyTree, old: PyTree) -> PyTree:
    def choose(a: Any, b: Any) -> Any:
        return jnp.where(condition, a, b) if eqx.is_array(a) else a

    return jax.tree.map(choose, new, old)
