"""One step as a pure function: parts of a state and a batch in, the next parts and metrics out."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ._batch import is_batch_leaf
from ._custom_types import Args, Batch, Flag, Metrics
from ._errors import TreeError
from ._gradient import Gradient, LossOfBatch, LossSpec, require_divisible
from ._norm import tree_norm
from ._random import step_key
from ._state import NO_FAULT, Parts
from ._trainable import trainable_mask
from .tree._paths import flatten_with_paths
from .tree._where import Where


class StepSpec(NamedTuple):
    """Everything that a step was made with."""

    loss: LossSpec
    optimizer: optax.GradientTransformationExtraArgs
    trainable: Where
    nonfinite: str


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
        def wrapped(*args: Any) -> Any:
            with (
                jax.numpy_dtype_promotion(self._dtype),
                jax.numpy_rank_promotion(self._rank),
            ):
                return function(*args)

        return wrapped


def advance(spec: StepSpec, parts: Parts, batch: Batch, args: Args | None) -> tuple[Parts, Metrics]:
    """One step.

    Returns:
        The next parts, of the same structure, shapes and dtypes; and the metrics: `loss`, every
        entry of aux, `grad_norm`.
    """
    require_divisible(batch, spec.loss.accumulate)
    mask = trainable_mask(spec.trainable, parts.model)
    trainable, frozen = eqx.partition(parts.model, mask)
    key = step_key(parts.key.typed(), parts.step)
    loss = LossOfBatch(spec.loss, frozen, batch, key, args)
    gradient = loss.gradient(trainable)
    with optax_promotion():
        norm = tree_norm(gradient.grads)
    updated, opt_state = _update(spec, parts, trainable, gradient, loss)
    finite = None if spec.nonfinite == "ignore" else _is_finite(gradient, norm)
    if spec.nonfinite == "skip":
        assert finite is not None
        updated, opt_state = _select(finite, (updated, opt_state), (trainable, parts.opt_state))
    new = Parts(
        model=eqx.combine(updated, frozen),
        opt_state=opt_state,
        key=parts.key,
        step=parts.step + 1,
        faults=_note(parts.faults, finite, gradient.empty, parts.step),
    )
    metrics = {"loss": gradient.loss, **gradient.figures, "grad_norm": norm}
    return new, metrics


def _update(
    spec: StepSpec, parts: Parts, trainable: PyTree, gradient: Gradient, loss: LossOfBatch
) -> tuple[PyTree, PyTree]:
    value_fn = _user_promotion()(loss.value)
    with optax_promotion():
        _require_own_state(spec, trainable, parts.opt_state)
        updates, opt_state = spec.optimizer.update(
            gradient.grads,
            parts.opt_state,
            trainable,
            value=gradient.loss,
            grad=gradient.grads,
            value_fn=value_fn,
        )
        updated = optax.apply_updates(trainable, updates)
    return updated, _same_types("opt_state", parts.opt_state, opt_state)


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
    """Loss and gradient are finite; a norm that overflows over finite gradients is no fault."""

    def look_closely() -> jax.Array:
        leaves = jax.tree.leaves(gradient.grads)
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))

    gradient_ok = jax.lax.cond(jnp.isfinite(norm), lambda: jnp.bool_(True), look_closely)
    return jnp.isfinite(gradient.loss) & gradient_ok


def _note(
    known: jax.Array, finite: jax.Array | None, empty: jax.Array | None, step: jax.Array
) -> jax.Array:
    """Writes the step where there is a fault, unless an earlier one is there already.

    `None` stands for what cannot happen in this program, which then does not look.
    """
    if finite is None and empty is None:
        return known
    faults = jnp.stack(
        [
            jnp.bool_(False) if finite is None else ~finite,
            jnp.bool_(False) if empty is None else empty,
        ]
    )
    first = (known == NO_FAULT) & faults
    return jnp.where(first, jnp.broadcast_to(step, known.shape), known)


def _select(condition: Flag, new: PyTree, old: PyTree) -> PyTree:
    def choose(a: Any, b: Any) -> Any:
        return jnp.where(condition, a, b) if eqx.is_array(a) else a

    return jax.tree.map(choose, new, old)
