"""PyTorch, eager: the loop of its tutorials, with AdamW as it comes and with AdamW fused."""

import copy

import torch

from .. import _configs
from .._configs import Config
from ..models import _torch
from ._base import Run


class TorchLoop(Run):
    """Forward, backward, step. Computation on the CPU is synchronous: nothing to wait for."""

    def __init__(self, config: Config, fused: bool):
        self.config = config
        self.model = _torch.model(config, _configs.weights(config))
        self.batches = _configs.batches(config)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=_configs.LEARNING_RATE,
            weight_decay=_configs.WEIGHT_DECAY,
            fused=fused,
        )

    def run(self, num_steps: int) -> None:
        model, optimizer = self.model, self.optimizer
        model.train()
        for inputs, labels in _configs.stream(self.batches, num_steps):
            x, y = torch.from_numpy(inputs), torch.from_numpy(labels).long()
            optimizer.zero_grad()
            logits = model(x)
            loss = torch.nn.functional.cross_entropy(logits, y)
            accuracy = (logits.argmax(-1) == y).float().mean()  # noqa: F841  (as all compute it)
            loss.backward()
            optimizer.step()

    def loss(self) -> float:
        return torch_loss(self.model, self.config)


def torch_loss(model, config: Config) -> float:
    """The model's loss on the first batch, dropout off, BatchNorm by the batch itself."""
    model = copy.deepcopy(model).train(config.stateful)
    inputs, labels = (torch.from_numpy(array) for array in _configs.batches(config)[0])
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model(inputs), labels.long()))


def build(config: Config) -> Run:
    return TorchLoop(config, fused=False)


def build_fused(config: Config) -> Run:
    return TorchLoop(config, fused=True)
