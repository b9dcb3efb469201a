"""Variables that a call writes, as Equinox's `nn.State`."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._errors import ArgumentTypeError, TreeError
from ..tree._match import mismatches, some

Indices = dict[str, eqx.nn.StateIndex]


def stated(collections: Mapping[str, PyTree]) -> tuple[Indices, eqx.nn.State]:
    """The places of collections in a state, and the state that holds them."""
    kept = jax.tree.map(_as_kept, dict(collections))
    indices = {name: eqx.nn.StateIndex(value) for name, value in kept.items()}
    for name, index in indices.items():
        # So that a state goes by the name of its collection, `batch_stats`, in paths and in
        # checkpoints: `make_with_state` puts the name of a class before it.
        object.__setattr__(index, "marker", name)
    model_state = eqx.nn.State(list(indices.values()))
    return {name: eqx.nn.delete_init_state(index) for name, index in indices.items()}, model_state


def require_state(model_state: Any) -> eqx.nn.State:
    """What is handed to a call as its state, if it is one.

    Raises:
        ArgumentTypeError: It is none.
    """
    if not isinstance(model_state, eqx.nn.State):
        told = "missing" if model_state is None else f"a {type(model_state).__name__}"
        raise ArgumentTypeError(
            f"`model_state` is {told}: a model whose call writes variables takes its state second, "
            f"`out, model_state = model(x, model_state)`, and the loss is that of `TrainStep(..., "
            f"stateful=True)`, as the metric is of `EvalStep`. `predict` and `export` take both as "
            f"a pair, `(model, model_state)`, or the state of the training."
        )
    return model_state


def require_kept(model_state: Any, keeps: bool, back: str) -> None:
    """Refuses a state that is missing on the way back, or that the model does not have.

    Args:
        model_state: What was given.
        keeps: Whether the model keeps one.
        back: The name of the function.

    Raises:
        ArgumentTypeError: With the way out.
    """
    if keeps and not isinstance(model_state, eqx.nn.State):
        raise ArgumentTypeError(
            f"`model_state` is a {type(model_state).__name__}, and this model keeps variables in "
            f"one: `{back}(state.model, state.model_state)`."
        )
    if not keeps and model_state is not None:
        raise ArgumentTypeError("`model_state` was given, and this model keeps no state.")


def read(indices: Indices, model_state: eqx.nn.State) -> dict[str, PyTree]:
    """The collections in a state, by name.

    Raises:
        TreeError: The state lacks one.
    """
    held = {}
    for name, index in indices.items():
        try:
            held[name] = model_state.get(index)
        except KeyError as error:
            raise TreeError(
                f"`model_state` has no {name!r}: it is the state of another model. Hand over the "
                f"one that came beside this model, or `state.model_state` of its training."
            ) from error
    return held


def written(
    indices: Indices, model_state: eqx.nn.State, new: Mapping[str, Any], what: str
) -> eqx.nn.State:
    """The next state.

    Args:
        indices: The places of the collections.
        model_state: The state before.
        new: The collections as a call left them.
        what: Whose call it was, for the message.

    Raises:
        TreeError: They have other variables, shapes or dtypes than before.
    """
    for name, index in indices.items():
        old, left = model_state.get(index), jax.tree.map(_as_kept, new[name])
        problems = mismatches(old, left, ("what it was given", "what it left"), _same_kind)
        if problems:
            raise TreeError(
                f"The call of {what} changed the make of its collection {name!r}: "
                f"{some(problems, separator='; ')}. A state keeps its variables, shapes and "
                f"dtypes: initialise the module with all that it writes, with inputs of these "
                f"shapes."
            )
        model_state = model_state.set(index, left)
    return model_state


def _as_kept(leaf: Any) -> Any:
    """A leaf as a state has it: a call may leave a number, or what JAX takes for one."""
    if isinstance(leaf, (bool, int, float)):
        return jnp.asarray(np.asarray(leaf))
    if getattr(leaf, "weak_type", False):
        return jax.lax.convert_element_type(leaf, leaf.dtype)
    return leaf


def _same_kind(old: Any, new: Any) -> bool:
    return old.shape == new.shape and old.dtype == new.dtype
