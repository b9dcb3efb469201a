"""What a demo of one model is made of."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._custom_types import Model, PRNGKey
from .._evaluate import EvalStep
from .._step import TrainStep
from ..tree._summary import Summary


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A model, and how it is trained.

    Attributes:
        title: What it is called in titles.
        folder: What its run folders end in, by default.
        steps: How many it takes.
        batch_size: Of each of them.
        train_label: What the figures of the batches are of, in the legend.
        as_input: From rows of numbers, and the shape that each is looked at in, to what the model
            is called with.
        make: From the shape of an input, a number of classes and a key to the model, and its state
            where it has one.
        make_step: From the number of steps over which the learning rate falls to the training step.
        make_eval_step: To what is measured.
        describe: From the model, its state and an input to what is told of it.
    """

    title: str
    folder: str
    steps: int
    batch_size: int
    train_label: str
    as_input: Callable[[Float[np.ndarray, "n size"], tuple[int, ...]], np.ndarray]
    make: Callable[[tuple[int, ...], int, PRNGKey], tuple[Model, eqx.nn.State | None]]
    make_step: Callable[[int], TrainStep]
    make_eval_step: Callable[[], EvalStep]
    describe: Callable[[Any, eqx.nn.State | None, np.ndarray], Summary]
