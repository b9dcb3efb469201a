"""Lightning's own `Trainer` trains as PyTorch's loop does, to whose figures ours is held."""

import warnings

import numpy as np
import pytest
from tests.interop.torch_reference import OPTIMIZERS, STEPS, batch_of, recorded

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    # What they say while they are imported is no concern of ours.
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning")


@pytest.fixture(scope="module")
def classifier():
    from tests.interop.torch_figures import mlp
    from tests.nn.torch_figures import fill

    class Classifier(lightning.LightningModule):
        def __init__(self, name):
            super().__init__()
            self.net, self.name, self.losses = fill(mlp(), buffers=False), name, []

        def training_step(self, batch, index):
            x, y = batch
            loss = torch.nn.functional.cross_entropy(self.net(x), y.long())
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            make = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[self.name]
            return make(self.net.parameters(), **OPTIMIZERS[self.name])

    return Classifier


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_are_those_of_pytorchs_loop(name, classifier, tmp_path):
    batches = [tuple(map(torch.tensor, batch_of(step))) for step in range(STEPS)]
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    module = classifier(name)
    # A list by itself would be several loaders.
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    told = recorded(name)
    np.testing.assert_allclose(module.losses, told["losses"], rtol=1e-6)
    for path, value in module.net.state_dict().items():
        theirs = np.array(told["weights"][path])
        np.testing.assert_allclose(value, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())
