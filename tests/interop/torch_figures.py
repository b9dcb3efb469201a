"""PyTorch's side of the comparisons; `python -m tests.interop.torch_figures` records its figures.

The tests read `torch_figures.json`, so that they need no PyTorch; where it is installed, they also
compute everything anew.
"""

import json

import torch
from tests.interop import encoder
from tests.interop.torch_reference import (
    FIGURES,
    IMAGES,
    MLP_SHAPES,
    OPTIMIZERS,
    RESNET,
    SENTENCES,
    STEPS,
    batch_of,
)
from tests.nn.reference import drawn
from tests.nn.torch_figures import ResNet, fill, rounded


def transformer():
    layer = torch.nn.TransformerEncoderLayer(
        encoder.SIZE, encoder.HEADS, encoder.WIDE, batch_first=True
    )
    norm = torch.nn.LayerNorm(encoder.SIZE)
    return torch.nn.TransformerEncoder(layer, encoder.LAYERS, norm=norm, enable_nested_tensor=False)


def resnet():
    return ResNet(**RESNET)


def mlp():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def outputs(module, x):
    with torch.no_grad():
        return fill(module, buffers=True).eval()(torch.tensor(x)).tolist()


def training_figures(name):
    """A loop as everybody writes it."""
    net = fill(mlp(), buffers=False)
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == MLP_SHAPES
    make = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    optimizer = make(net.parameters(), **OPTIMIZERS[name])
    losses = []
    for step in range(STEPS):
        x, y = map(torch.tensor, batch_of(step))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y.long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {
        "losses": losses,
        "weights": {name: value.tolist() for name, value in net.state_dict().items()},
    }


def figures_of(name):
    torch.set_num_threads(1)
    if name == "transformer":
        return outputs(transformer(), drawn(*SENTENCES))
    if name == "resnet":
        return outputs(resnet(), drawn(*IMAGES))
    return training_figures(name)


if __name__ == "__main__":
    told = {name: figures_of(name) for name in ("transformer", "resnet", *OPTIMIZERS)}
    told = rounded({"torch": torch.__version__, **told})
    FIGURES.write_text(json.dumps(told) + "\n", encoding="utf-8")
