"""What an optax optimizer keeps in its state for others to read: hyperparameters, averages."""

import collections
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jaxtyping import Array, PyTree

from ._custom_types import Model
from ._errors import ArgumentValueError
from ._precision import widened
from .tree._paths import path_of

_INJECTED = tuple(
    getattr(optax, name, None) or getattr(optax.schedules, name)
    for name in ("InjectHyperparamsState", "InjectStatefulHyperparamsState")
)


def _is_injected(node: Any) -> bool:
    return isinstance(node, _INJECTED)


def _is_schedule_free(node: Any) -> bool:
    return isinstance(node, optax.contrib.ScheduleFreeState)


def _injected(opt_state: PyTree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every state of `optax.inject_hyperparams`, those inside of others too, with its path."""
    nodes, _ = jax.tree_util.tree_flatten_with_path(opt_state, is_leaf=_is_injected)
    for keys, node in nodes:
        if _is_injected(node):
            path = f"{prefix}{path_of(keys)}/"
            yield path, node
            yield from _injected(node.inner_state, path)


def hyperparams_of(opt_state: PyTree) -> dict[str, Array]:
    """What belongs among a step's metrics of the numbers that `optax.inject_hyperparams` keeps.

    The learning rate, and what follows a schedule. The rest (Adam's `eps`, say) stays what it was.

    Returns:
        Each by its name; by its path and name where several share the name.
    """
    found = [
        (path, name, value)
        for path, node in _injected(opt_state)
        for name, value in node.hyperparams.items()
        if name == "learning_rate" or name in getattr(node, "hyperparams_states", {})
    ]
    counts = collections.Counter(name for _, name, _ in found)
    return {name if counts[name] == 1 else f"{path}{name}": value for path, name, value in found}


def scheduled_in(opt_state: PyTree) -> set[str]:
    """The names among them that follow a schedule, which computes them anew in each step."""
    states = (getattr(node, "hyperparams_states", {}) for _, node in _injected(opt_state))
    return {name for known in states for name in known}


def with_hyperparams(opt_state: PyTree, values: Mapping[str, Any]) -> PyTree:
    """An optimizer's state with some of its hyperparameters set, wherever they have that name.

    Args:
        opt_state: The state.
        values: By the name that they have in `inject_hyperparams`; arrays of the shape that is
            there.

    Raises:
        ArgumentValueError: The optimizer has no hyperparameter of that name, or a schedule sets it.
    """
    known = {name for _, node in _injected(opt_state) for name in node.hyperparams}
    for name in values:
        if name not in known:
            raise ArgumentValueError(_unknown(name, known))
        if name in scheduled_in(opt_state):
            raise ArgumentValueError(
                f"`hyperparams` sets {name!r}, but in this optimizer a schedule does, anew in each "
                f"step: inject a number in its place, or scale what the schedule gives by one."
            )

    def put(node: Any) -> Any:
        if not _is_injected(node):
            return node
        own = {
            name: _in_its_format(name, values[name], value) if name in values else value
            for name, value in node.hyperparams.items()
        }
        inner = jax.tree.map(put, node.inner_state, is_leaf=_is_injected)
        return node._replace(hyperparams=own, inner_state=inner)

    return jax.tree.map(put, opt_state, is_leaf=_is_injected)


def _in_its_format(name: str, given: Any, kept: Any) -> Array:
    """A value in the dtype that the optimizer keeps it in.

    Raises:
        ArgumentValueError: It would lose its fraction.
    """
    dtype = jnp.result_type(kept)
    if jnp.issubdtype(dtype, jnp.integer) and np.any(np.asarray(given) != np.floor(given)):
        raise ArgumentValueError(
            f"`hyperparams` sets {name!r} to {given!r}, but the optimizer keeps an integer there, "
            f"because it was made with one: write a float, `optax.inject_hyperparams(...)("
            f"{name}={float(np.max(np.asarray(kept)))!r})`."
        )
    return jnp.asarray(given, dtype)


def _unknown(name: str, known: set[str]) -> str:
    if known:
        return (
            f"`hyperparams` sets {name!r}, which the optimizer does not have: it has "
            f"{', '.join(map(repr, sorted(known)))}."
        )
    return (
        f"`hyperparams` sets {name!r}, but the optimizer keeps no hyperparameters in its state: "
        f"wrap it, `optax.inject_hyperparams(optax.adamw)({name}=...)`."
    )


def evaluation_params(opt_state: PyTree, model: Model) -> Model:
    """The model with the parameters that a schedule-free optimizer wants to be measured by.

    Args:
        opt_state: The optimizer's state, the schedule-free one anywhere in it.
        model: The model; leaves that no such optimizer trains stay as they are.

    Raises:
        ArgumentValueError: No optimizer in it keeps such parameters.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_schedule_free)
    states = [node for node in nodes if _is_schedule_free(node)]
    if not states:
        raise ArgumentValueError(
            "`weights='optimizer'` is for optimizers that keep parameters of their own for "
            "evaluation, such as `optax.contrib.schedule_free_adamw`, and this state's does not. "
            "Use 'model', or 'ema' with `TrainStep(..., ema=0.999)`."
        )
    for state in states:

        def measured(z: Any, own: Any, state: Any = state) -> Any:
            if _is_missing(z):
                return own
            return optax.contrib.schedule_free_eval_params(state._replace(z=z), widened(own))

        model = jax.tree.map(measured, state.z, model, is_leaf=_is_missing)
    return model


def _is_missing(node: Any) -> bool:
    """What is not trained, or by another optimizer of an `optax.partition`."""
    return node is None or isinstance(node, optax.MaskedNode)
