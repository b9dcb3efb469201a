"""What PyTorch and treadle are both given: weights drawn by their names, inputs, options."""

import json
import pathlib

import numpy as np
from tests.interop import encoder
from tests.nn.reference import drawn

FIGURES = pathlib.Path(__file__).with_name("torch_figures.json")
RESNET = {"depth": 18, "width": 8, "in_channels": 3, "stem": "small"}
SENTENCES = ("input of the encoder", (3, encoder.LENGTH, encoder.SIZE))
IMAGES = ("input of the network", (4, 3, 8, 8))
MLP_SHAPES = {"0.weight": (8, 4), "0.bias": (8,), "2.weight": (3, 8), "2.bias": (3,)}
STEPS = 20
OPTIMIZERS = {
    "sgd": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "adamw": {"lr": 1e-3, "weight_decay": 0.1},
}


def batch_of(step):
    return drawn(f"input {step}", (6, 4)), (np.arange(6) * (step + 1) % 3).astype(np.int32)


def state_dict_of(shapes):
    return {name: drawn(name, shape) for name, shape in shapes.items()}


def recorded(name):
    return json.loads(FIGURES.read_text(encoding="utf-8"))[name]
