"""A state across a change of the model: what is still valid in it is kept."""

import collections
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from ._average import Average
from ._custom_types import Model
from ._errors import ArgumentTypeError, TreeError
from ._init import initial_state
from ._program import StepSpec, optax_promotion, optimized
from ._state import Parts, TrainState, copy_leaf
from ._trainable import trainable_mask
from .tree._migrate import require_alive, transported
from .tree._paths import path_of
from .tree._unchanged import Trained, unchanged

_HINT = (
    "A state migrates with the step that made it; for another step to go on with it, say which one "
    "made it: `new_step.migrate(state, new_model, old_step=step)`."
)


def _require_single(spec: StepSpec, old_spec: StepSpec, parts: Parts) -> None:
    if (spec.members, old_spec.members, parts.members) != (None, None, None):
        raise TreeError(
            "`migrate` is for the state of a single run, and this is an ensemble, whose members "
            "may each change in another way. Migrate the members, with the step that the ensemble "
            "was made of: `states = [step.migrate(s, change(s.model)) for s in "
            "treadle.tree.unstack(state)]`, then `treadle.tree.stack(states)`."
        )


def _require_model(model: Any) -> None:
    if callable(model) and jtu.all_leaves([model]):
        raise ArgumentTypeError(
            f"`new_model` (={model!r}) is a function: hand over the model itself, made from the "
            f"old one: `eqx.tree_at(lambda m: m.head, state.model, new_head)`."
        )


def _is_index(node: Any) -> bool:
    return isinstance(node, eqx.nn.StateIndex)


def _indices(model: Model) -> list[tuple[str, Any]]:
    """The paths and markers of all that looks something up in a state."""
    nodes = jtu.tree_leaves_with_path(model, is_leaf=_is_index)
    return [(path_of(keys), node.marker) for keys, node in nodes if _is_index(node)]


def _entries(model_state: Any) -> dict[Any, Any]:
    """The entries of a state by their markers; none of what is no state."""
    if not isinstance(model_state, eqx.nn.State):
        return {}
    values, markers = model_state.tree_flatten()
    return dict(zip(markers, values, strict=True))


def _require_own_entries(old: Model, new: Model) -> None:
    """Refuses layers that came to share an entry of the state.

    Raises:
        TreeError: With the paths of both.
    """
    before = collections.Counter(marker for _, marker in _indices(old))
    places: dict[Any, list[str]] = {}
    for path, marker in _indices(new):
        places.setdefault(marker, []).append(path)
    for marker, paths in places.items():
        if len(paths) > max(before[marker], 1):
            raise TreeError(
                f"{' and '.join(map(repr, paths))} of `new_model` would share one entry of the "
                f"state, {marker!r}: Equinox names entries by where a layer is in what is made "
                f"with it. Make new layers under names of their own, all at once: `layers, "
                f"layers_state = eqx.nn.make_with_state(lambda: {{'new': Layer(...)}})()`."
            )


def _merged_state(model: Model, old: Parts, given: Any) -> Any:
    """The state of a model's layers: of those that were there, and of new ones.

    Raises:
        TreeError: Layers are in neither, or in one place of it.
    """
    newest = old.model_state if given is None else given
    if not isinstance(newest, eqx.nn.State):
        return newest  # One of the user's own making, or none.
    _require_own_entries(old.model, model)
    known = _entries(old.model_state) | _entries(given)
    missing = [path for path, marker in _indices(model) if marker not in known]
    if missing:
        raise TreeError(
            f"`new_model` has layers with a state, {', '.join(map(repr, missing))}, that the old "
            f"state does not have: hand over theirs. `layer, layer_state = "
            f"eqx.nn.make_with_state(Layer)(...)`, then `step.migrate(state, new_model, "
            f"model_state=layer_state)`."
        )
    kept = {marker: known[marker] for _, marker in _indices(model)}
    return eqx.nn.State.tree_unflatten(tuple(kept), tuple(kept.values()))


def _comparable(given: PyTree, model: PyTree) -> PyTree:
    """The new model as it was given where that is what it became, so that arrays are the same."""

    def one(before: Any, after: Any) -> Any:
        return before if eqx.is_array(before) and before.dtype == after.dtype else after

    return jax.tree.map(one, given, model)


def _average(fresh: Average, old: Average, same: list[int | None]) -> Average:
    """The averages of unchanged leaves; the others begin at their own value."""
    leaves, treedef = jax.tree.flatten(fresh.unpacked())
    kept = jax.tree.leaves(old.unpacked())
    merged = [
        own if index is None else kept[index] for own, index in zip(leaves, same, strict=True)
    ]
    return fresh.repacked(jax.tree.unflatten(treedef, merged))


def migrated_state(
    spec: StepSpec, old_spec: StepSpec, state: TrainState, new_model: Any, model_state: Any
) -> TrainState:
    """The state of a step for a model that was changed, in memory of its own.

    Args:
        spec: Of the step that goes on.
        old_spec: Of the step that made the state.
        state: The state.
        new_model: The model after the change.
        model_state: The state of new layers.

    Raises:
        As `TrainStep.migrate`.
    """
    old = state.parts()
    _require_single(spec, old_spec, old)
    _require_model(new_model)
    require_alive("new_model", new_model)
    merged = model_state
    if spec.loss.call.stateful:
        merged = _merged_state(new_model, old, model_state)
    new = initial_state(spec, new_model, old.key.typed(), True, merged, None).parts()
    before, after = (
        Trained(model, jax.tree.leaves(trainable_mask(one.trainable, model)))
        for one, model in ((old_spec, old.model), (spec, _comparable(new_model, new.model)))
    )
    same = unchanged(before, after)
    with optax_promotion():
        opt_state = transported(
            old.opt_state,
            new.opt_state,
            (old_spec.optimizer.init, optimized(old_spec, before.params())),
            (spec.optimizer.init, optimized(spec, after.params())),
            same,
            _HINT,
        )
    kept = {"opt_state": opt_state, "key": old.key, "step": old.step, "faults": old.faults}
    if new.ema_model is not None and old.ema_model is not None:
        if old.ema_model.treedef != jax.tree.structure(before.params()):
            raise TreeError(f"The state averages other leaves than this step trains. {_HINT}")
        kept["ema_model"] = _average(new.ema_model, old.ema_model, same)
        kept["ema_updates"] = old.ema_updates
    if new.skipped is not None and old.skipped is not None:
        kept["skipped"] = old.skipped
    # One scale is not within the bounds of another.
    has_own_scale = spec.precision != old_spec.precision or old.loss_scale is None
    if new.loss_scale is not None and not has_own_scale:
        kept["loss_scale"] = old.loss_scale
    return TrainState.from_parts(new._replace(**jax.tree.map(copy_leaf, kept)))
