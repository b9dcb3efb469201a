"""What Keras and treadle are both given."""

import pathlib

FIGURES = pathlib.Path(__file__).with_name("keras_figures.json")
SHAPES = {
    "mlp/first/kernel": (4, 8),
    "mlp/first/bias": (8,),
    "mlp/last/kernel": (8, 3),
    "mlp/last/bias": (3,),
}
OPTIMIZERS = {
    "sgd": {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    # Keras adds its epsilon before it takes the bias out of the moments, optax after.
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.1, "epsilon": 1e-10},
}
