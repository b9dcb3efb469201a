"""Keras' side of the comparison; `KERAS_BACKEND=jax python -m tests.interop.keras_figures`.

It records `keras_figures.json`, which the tests read, so that they need no Keras; where it is
installed, they also compute everything anew.
"""

import json
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from tests.interop.keras_reference import FIGURES, OPTIMIZERS, SHAPES
from tests.interop.torch_reference import STEPS, batch_of
from tests.nn.reference import drawn


def figures_of(name):
    """What `train_on_batch` gives, which is what `fit` calls."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="first"),
            keras.layers.Dense(3, name="last"),
        ],
        name="mlp",
    )
    assert {w.path: tuple(w.shape) for w in model.weights} == SHAPES
    for weight in model.weights:
        weight.assign(drawn(weight.path, SHAPES[weight.path]))
    make = {"sgd": keras.optimizers.SGD, "adamw": keras.optimizers.AdamW}[name]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(make(**OPTIMIZERS[name]), loss)
    outputs = model.predict(batch_of(0)[0], verbose=0).tolist()
    losses = []
    for step in range(STEPS):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(*batch_of(step))))
    weights = {w.path: w.numpy().tolist() for w in model.weights}
    return {"outputs": outputs, "losses": losses, "weights": weights}


if __name__ == "__main__":
    from tests.nn.torch_figures import rounded

    told = {name: figures_of(name) for name in OPTIMIZERS}
    FIGURES.write_text(json.dumps(rounded({"keras": keras.__version__, **told})) + "\n")
