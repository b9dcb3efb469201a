"""Models with checked signatures, each called on one example."""

from ._mlp import MLP as MLP
from ._resnet import ResNet as ResNet
