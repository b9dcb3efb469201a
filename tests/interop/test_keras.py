"""Weights of Keras models, and twenty steps beside Keras: recorded, and where it is installed."""

import json

import jax
import numpy as np
import optax
import pytest
from tests.interop.keras_reference import FIGURES, OPTIMIZERS, SHAPES
from tests.interop.test_torch import loss_fn, make_mlp
from tests.interop.torch_reference import STEPS, batch_of, state_dict_of

import treadle
from treadle.interop.torch import Transposed, from_torch, to_torch

RENAME = {
    "mlp/first/kernel": Transposed("layers/0/weight"),
    "mlp/first/bias": "layers/0/bias",
    "mlp/last/kernel": Transposed("layers/1/weight"),
    "mlp/last/bias": "layers/1/bias",
}
OURS = {
    "sgd": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(1e-3, eps=1e-10, weight_decay=0.1),
}


@pytest.fixture(params=["recorded", "live"])
def figures(request):
    if request.param == "recorded":
        return json.loads(FIGURES.read_text(encoding="utf-8")).get
    pytest.importorskip("keras")
    from tests.interop import keras_figures

    def figures_of(name):  # Keras is not written for our strictness.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return keras_figures.figures_of(name)

    return figures_of


@pytest.fixture(scope="module")
def trained():
    def train(name):
        model = from_torch(make_mlp(), state_dict_of(SHAPES), RENAME)
        outputs = treadle.predict(model, batch_of(0)[0], batch_size=6)
        step = treadle.TrainStep(loss_fn, OURS[name])
        state = step.init(model, key=jax.random.key(1))
        losses = []
        for number in range(STEPS):
            state, metrics = step(state, batch_of(number))
            losses.append(float(metrics["loss"]))
        return outputs, losses, to_torch(state.model, state_dict_of(SHAPES), RENAME)

    return {name: train(name) for name in OPTIMIZERS}


# Keras' variables do not know `copy=` yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_outputs_and_twenty_steps_are_those_of_keras(name, figures, trained):
    outputs, losses, weights = trained[name]
    told = figures(name)
    np.testing.assert_allclose(outputs, told["outputs"], atol=1e-5)
    np.testing.assert_allclose(losses, told["losses"], rtol=1e-6)
    for path, ours in weights.items():
        theirs = np.array(told["weights"][path])
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())
