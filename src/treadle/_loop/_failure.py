"""What a training that failed can leave behind."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._errors import CheckpointError, NonFiniteError
from .._state import TrainState
from .._trainable import trainable_mask
from ..tree._where import Where


def is_worth_saving(error: BaseException) -> bool:
    """Whether an error says nothing against the state, nor against saving it.

    A second Ctrl-C ends at once, a checkpoint that could not be written will not be now, and what
    is not finite is not to be gone on from.
    """
    return isinstance(error, Exception) and not isinstance(error, (CheckpointError, NonFiniteError))


def is_finite(state: TrainState, trainable: Where) -> bool:
    """Whether every number that is trained is finite; others may be infinite on purpose."""
    trained = eqx.filter(state.model, trainable_mask(trainable, state.model))
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(trained))


class Untold:
    """Which callbacks had not heard of the newest step and evaluation when an error came.

    A resume evaluates again, and tells those; a step it cannot take again.

    Attributes:
        step: The names of those that had not heard of the step.
        eval: Of those that had not heard of the evaluation behind it; `None` where there was none.
    """

    def __init__(self) -> None:
        self.step: list[str] = []
        self.eval: list[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; empty where everything was told."""
        told = {} if self.eval is None else {"eval": self.eval}
        return {"step": self.step, **told} if self.step or told else {}
