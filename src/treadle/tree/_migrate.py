"""`migrate`: the state of an optimizer across a change of the model."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import PyTree

from .._custom_types import Door, Model
from .._errors import ArgumentTypeError, ConsumedStateError, TreeError
from ._owners import Init, kind_of, places_of
from ._paths import path_of
from ._unchanged import Trained, unchanged
from ._where import Where, leaf_mask


def require_alive(name: str, tree: PyTree) -> None:
    """Refuses a tree whose arrays were donated.

    Raises:
        ConsumedStateError: With the path of the first.
    """
    for path, leaf in jtu.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.is_deleted():
            raise ConsumedStateError(
                f"The array at {path_of(path)!r} of `{name}` is gone: it was donated to a step. "
                f"Migrate between two steps: the newest state, and a model that is made from it."
            )


def transported(
    opt_state: PyTree,
    fresh: PyTree,
    old: tuple[Init, PyTree],
    new: tuple[Init, PyTree],
    same: list[int | None],
    hint: str,
) -> PyTree:
    """An optimizer's state for other parameters, what belongs to unchanged ones kept.

    Args:
        opt_state: The state of the old parameters.
        fresh: The state that the new parameters begin with.
        old: What makes states, and the old parameters.
        new: The same of the new ones.
        same: For each new parameter, which of the old ones it is.
        hint: What to do where `opt_state` is none of `old`.

    Raises:
        TreeError: It is none.
    """
    template = eqx.filter_eval_shape(*old)
    _require_like(template, opt_state, hint)
    before, after = places_of(*old, template), places_of(*new, fresh)
    # The shapes and dtypes that states begin with are compared: in use they may get wider.
    kinds = map(kind_of, jax.tree.leaves(template))
    known = {
        (place.owner, place.role, kind): leaf
        for place, kind, leaf in zip(before, kinds, jax.tree.leaves(opt_state), strict=True)
    }
    former = {None: None} | {at: owner for at, owner in enumerate(same) if owner is not None}
    are_all_kept = same == list(range(len(jax.tree.leaves(old[1]))))
    leaves, treedef = jax.tree.flatten(fresh)
    for index, place in enumerate(after):
        if place.owner in former and (are_all_kept or not place.joint):
            key = (former[place.owner], place.role, kind_of(leaves[index]))
            leaves[index] = known.get(key, leaves[index])
    return jax.tree.unflatten(treedef, leaves)


def _require_like(template: PyTree, opt_state: PyTree, hint: str) -> None:
    """Refuses a state that has other leaves than it should have, or others of their shapes.

    Raises:
        TreeError: With the first that differ, on both sides.
    """
    wanted, given = _shapes(template), _shapes(opt_state)
    if list(wanted) != list(given):
        strange = [leaf for leaf in given if leaf not in wanted]
        missing = [leaf for leaf in wanted if leaf not in given]
        raise TreeError(
            f"`opt_state` is that of another optimizer or of another model: it has "
            f"{_listed(strange)} that the state of the old model does not have, and lacks "
            f"{_listed(missing)}. {hint}"
        )


def _shapes(tree: PyTree) -> dict[tuple[str, tuple[int, ...]], None]:
    """The paths and shapes of the leaves, in order."""
    # By JAX's own paths: of a node that names its leaves, not all may be in a state.
    kinds = [(path_of(path), kind_of(leaf)) for path, leaf in jtu.tree_leaves_with_path(tree)]
    return dict.fromkeys((path, kind.shape if kind else ()) for path, kind in kinds)


def _listed(leaves: list[tuple[str, tuple[int, ...]]]) -> str:
    """The first few."""
    if not leaves:
        return "nothing"
    more = f" and {len(leaves) - 3} more" if len(leaves) > 3 else ""
    return ", ".join(f"{path!r} of shape {list(shape)}" for path, shape in leaves[:3]) + more


def _is_trainable(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _trained(name: str, model: Model, trainable: Where) -> Trained:
    """A model and which of its leaves are trained: arrays of floats, and chosen.

    Raises:
        TreeError: None are.
    """
    leaves = jax.tree.leaves(model)
    chosen = jax.tree.leaves(leaf_mask(trainable, model, "trainable"))
    mask = [yes and _is_trainable(leaf) for yes, leaf in zip(chosen, leaves, strict=True)]
    if not any(mask):
        raise TreeError(
            f"`{name}` (a {type(model).__name__}) has nothing to train: of its "
            f"{sum(map(_is_trainable, leaves))} arrays of floats, `trainable` (={trainable!r}) "
            f"chooses none. Choose those that the optimizer keeps a state for."
        )
    return Trained(model, mask)


def _init_of(name: str, optimizer: Any) -> Init:
    if not isinstance(optimizer, optax.GradientTransformation | optax.MultiSteps):
        raise ArgumentTypeError(
            f"`{name}` (={optimizer!r}) is a {type(optimizer).__name__}, not an optax optimizer. "
            f"Hand over what made the state, such as `optax.adamw(1e-3)`."
        )
    return optimizer.init


def migrate(
    opt_state: PyTree,
    old_model: Model,
    new_model: Model,
    optimizer: Door[optax.GradientTransformation | optax.MultiSteps],
    *,
    trainable: Door[Where] = eqx.is_inexact_array,
    old_optimizer: Door[optax.GradientTransformation | optax.MultiSteps | None] = None,
    old_trainable: Door[Where | None] = None,
) -> PyTree:
    """The optimizer's state for a model that was changed: what is still valid in it is kept.

    A leaf of the new model is unchanged if it is the very array that is a leaf of the old one,
    wherever it stands now: a layer that was moved, or that another was inserted before, keeps its
    moments. Failing that, it is unchanged if a leaf of the same shape, dtype and bits stood at the
    same path, and is no other leaf of the new model now. What belongs to an unchanged leaf is kept
    bit for bit, for any optax optimizer; all other leaves begin as `optimizer.init` begins them. A
    leaf whose values changed is another leaf.

    What belongs to no leaf (counts, schedules, injected hyperparameters, random keys) is kept where
    the new state has it as well. What belongs to all leaves together (L-BFGS and its line search,
    `optax.flatten`) is kept if all are unchanged and in the same order, and begins anew otherwise.

    While tracing, leaves are known by identity alone, and an error says where that is not enough.

    Args:
        opt_state: The state of `optimizer` for what is trained of `old_model`.
        old_model: The model before.
        new_model: The model after, made from the old one: `eqx.tree_at(where, old_model, ...)`.
        optimizer: Any optax optimizer.
        trainable: What is trained: a filter function on leaves, a pytree of bools (a prefix of the
            model), a `treadle.tree.Selector`, or globs over leaf paths. Of what it chooses, arrays
            of floats are trained.
        old_optimizer: What made `opt_state`, if it was another: with labels for the old model, say.
        old_trainable: What was trained of the old model, if it was something else: leaves that are
            frozen from now on have no state any more, those that thaw get a fresh one.

    Returns:
        A state of the structure and shapes of `optimizer.init` on what is trained of `new_model`.
        It shares what is kept with `opt_state`.

    Raises:
        TreeError: `opt_state` is not of that optimizer and model, nothing is trained, `trainable`
            does not fit, or bits are wanted of a leaf that is being traced.
        ArgumentTypeError: `optimizer` is none.
        ConsumedStateError: An array was donated to a step.

    Example:
        >>> head = eqx.nn.Linear(64, 12, key=key)  # two classes more
        >>> grown = eqx.tree_at(lambda m: m.head, model, head)
        >>> opt_state = treadle.tree.migrate(opt_state, model, grown, optax.adamw(1e-3))
    """
    init = _init_of("optimizer", optimizer)
    old_init = init if old_optimizer is None else _init_of("old_optimizer", old_optimizer)
    trees = {"opt_state": opt_state, "old_model": old_model, "new_model": new_model}
    for name, tree in trees.items():
        require_alive(name, tree)
    old = _trained("old_model", old_model, trainable if old_trainable is None else old_trainable)
    new = _trained("new_model", new_model, trainable)
    same = unchanged(old, new)
    hint = (
        "Give what it was made with: `old_model`, and `old_optimizer` and `old_trainable` where "
        "those of the new model are others."
    )
    # Optax's own arithmetic fails under strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        fresh = init(new.params())
        before, after = (old_init, old.params()), (init, new.params())
        return transported(opt_state, fresh, before, after, same, hint)
