"""Lightning: a trainer for PyTorch."""

import logging
import tempfile
import warnings

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger

from .. import _configs
from .._configs import Config
from ..models import _torch
from ._base import Run
from .pytorch_loop import torch_loss


class Module(lightning.LightningModule):
    """The step as Lightning's own examples have it."""

    def __init__(self, model, logged: bool):
        super().__init__()
        self.model = model
        self.logged = logged

    def training_step(self, batch, index):
        inputs, labels = batch
        logits = self.model(inputs)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        accuracy = (logits.argmax(-1) == labels).float().mean()
        if self.logged:
            self.log_dict({"loss": loss, "accuracy": accuracy}, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(
            self.parameters(),
            lr=_configs.LEARNING_RATE,
            weight_decay=_configs.WEIGHT_DECAY,
            fused=True,
        )


class LightningFit(Run):
    """`Trainer.fit` on a list of batches; `logged` adds its progress bar and a CSV log."""

    def __init__(self, config: Config, logged: bool):
        self.config = config
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")
        self.module = Module(_torch.model(config, _configs.weights(config)), logged)
        self.batches = _configs.batches(config)
        self.tensors = [(torch.from_numpy(x), torch.from_numpy(y).long()) for x, y in self.batches]
        self.logged = logged

    def run(self, num_steps: int) -> None:
        pairs = list(_configs.stream(self.tensors, num_steps))
        loader = torch.utils.data.DataLoader(pairs, batch_size=None)
        with tempfile.TemporaryDirectory() as folder:
            trainer = lightning.Trainer(
                max_steps=num_steps,
                accelerator="cpu",
                logger=CSVLogger(folder) if self.logged else False,
                log_every_n_steps=10,
                enable_progress_bar=self.logged,
                enable_checkpointing=False,
                enable_model_summary=False,
            )
            self.module.train()
            trainer.fit(self.module, loader)

    def loss(self) -> float:
        return torch_loss(self.module.model, self.config)


def build(config: Config) -> Run:
    return LightningFit(config, logged=False)


def build_logged(config: Config) -> Run:
    return LightningFit(config, logged=True)
