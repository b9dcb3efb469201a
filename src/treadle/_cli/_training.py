"""A demo's training, whatever the model: what it starts from, and the loop."""

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from .. import data
from .._custom_types import Model, PRNGKey
from .._evaluate import EvalStep
from .._loop import History, fit
from .._state import TrainState
from .._step import TrainStep
from ..callbacks import Throughput
from ..tree._summary import Summary
from ._folder import Settings
from ._mlp import MLP
from ._prepare import Images
from ._recipe import Recipe
from ._resnet import RESNET

RECIPES = {"mlp": MLP, "resnet": RESNET}
_EVALS = 20
_EVAL_BATCH_SIZE = 512


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything that training needs.

    Attributes:
        recipe: Of what is trained.
        model: As it begins.
        model_state: Of its stateful layers, as it begins; `None` where it has none.
        summary: What the model is made of.
        step: The training step.
        eval_step: What is measured.
        batches: To train on, without end.
        test_batches: To measure on.
        key: Of all draws while training.
        eval_every: Steps between two measurements.
    """

    recipe: Recipe
    model: Model
    model_state: eqx.nn.State | None
    summary: Summary
    step: TrainStep
    eval_step: EvalStep
    batches: Any
    test_batches: Any
    key: PRNGKey
    eval_every: int


def settings_of(model: str, name: str, images: Images, seed: int, num_steps: int) -> Settings:
    """What must agree for a run to be continued."""
    digest = 0
    for array in (images.x_train, images.y_train, images.x_test, images.y_test):
        digest = zlib.crc32(array.tobytes(), digest)
    # Not `num_steps` itself, so that a run that was cut short by `--steps` can go on.
    schedule_steps = max(num_steps, RECIPES[model].steps)
    return Settings(model, name, f"{digest:08x}", seed, schedule_steps)


def set_up(images: Images, settings: Settings) -> Setup:
    """The model, its step and its batches.

    Raises:
        ArgumentValueError: The images are too small for the model.
    """
    recipe = RECIPES[settings.model]
    model_key, data_key, training_key = jax.random.split(jax.random.key(settings.seed), 3)
    train = (recipe.as_input(images.x_train, images.shape), images.y_train)
    test = (recipe.as_input(images.x_test, images.shape), images.y_test)
    model, model_state = recipe.make(train[0].shape[1:], images.num_classes, model_key)
    return Setup(
        recipe=recipe,
        model=model,
        model_state=model_state,
        summary=recipe.describe(model, model_state, train[0][0]),
        step=recipe.make_step(settings.schedule_steps),
        eval_step=recipe.make_eval_step(),
        batches=data.arrays(train, min(recipe.batch_size, len(images.y_train)), key=data_key),
        test_batches=data.arrays(
            test,
            min(_EVAL_BATCH_SIZE, len(images.y_test)),
            key=data_key,
            shuffle=False,
            drop_remainder=False,
            epochs=1,
        ),
        key=training_key,
        eval_every=settings.schedule_steps // _EVALS,
    )


def train(setup: Setup, num_steps: int, run: Path) -> tuple[TrainState, History, float | None]:
    """Trains up to step `num_steps`, going on where the run folder ends.

    Returns:
        What `fit` gives, and examples a second (`None` where nothing was left to do).
    """
    throughput = Throughput()
    state, history = fit(
        setup.step,
        setup.step.init(setup.model, key=setup.key, model_state=setup.model_state),
        setup.batches,
        num_steps=num_steps,
        eval=(setup.eval_step, setup.test_batches),
        eval_every=setup.eval_every,
        log_every=10,
        run=run,
        callbacks=[throughput],
    )
    return state, history, throughput.examples_per_second
