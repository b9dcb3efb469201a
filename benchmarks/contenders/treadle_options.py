"""treadle: the user's own loop over a step with one option switched on."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax

import treadle

from .. import _configs
from .._configs import Config
from ..models import _equinox
from ._base import Run
from .treadle_step import StepLoop


def _later_half(config: Config) -> Any:
    """The arrays in the later half of the model, as a mask of it: what is trained on top of a
    model that is kept."""
    model = _equinox.model(config, _configs.weights(config))
    if config.stateful:
        model, _ = model
    leaves, treedef = jax.tree.flatten(model)
    places = [index for index, leaf in enumerate(leaves) if eqx.is_inexact_array(leaf)]
    chosen = set(places[len(places) // 2 :])
    return jax.tree.unflatten(treedef, [index in chosen for index in range(len(leaves))])


def _rounded() -> treadle.Precision:
    return treadle.Precision(
        params="bfloat16", compute="bfloat16", output="float32", stochastic_rounding=True
    )


def _injected() -> optax.GradientTransformation:
    made = optax.inject_hyperparams(optax.adamw)
    return made(_configs.LEARNING_RATE, weight_decay=_configs.WEIGHT_DECAY)


_OPTIONS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "plain": lambda config: {},
    "raise": lambda config: {"nonfinite": "raise"},
    "skip": lambda config: {"nonfinite": "skip"},
    "ema": lambda config: {"ema": 0.999},
    "bf16": lambda config: {"precision": "bf16"},
    "fp16": lambda config: {"precision": "fp16"},
    "bf16-params": lambda config: {"precision": _rounded()},
    "accumulate-4": lambda config: {"accumulate": 4},
    "undonated": lambda config: {"donate": False},
    "half": lambda config: {"trainable": _later_half(config)},
    "hyperparams": lambda config: {"optimizer": _injected()},
}


def build(config: Config, option: str) -> Run:
    return StepLoop(config, **{"nonfinite": "ignore"} | _OPTIONS[option](config))
