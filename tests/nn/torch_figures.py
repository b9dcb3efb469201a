"""PyTorch's side of the comparisons; `python -m tests.nn.torch_figures` records its figures.

The tests read `torch_figures.json`, so that they need no PyTorch; where it is installed, they also
compute everything anew.
"""

import json

import torch
from tests.nn.reference import (
    BATCH,
    FIGURES,
    MOMENTUM,
    NETS,
    NUM_CLASSES,
    drawn,
    images_of,
    labels_of,
)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
SHAPE = (BATCH, 2, 3, 2)
STEPS = 3


def conv(channels, out, size, stride=1):
    return torch.nn.Conv2d(channels, out, size, stride, size // 2, bias=False)


class Block(torch.nn.Module):
    def __init__(self, channels, width, stride, norm, bottleneck):
        super().__init__()
        out = 4 * width if bottleneck else width
        if bottleneck:
            self.conv1, self.bn1 = conv(channels, width, 1), norm(width)
            self.conv2, self.bn2 = conv(width, width, 3, stride), norm(width)
            self.conv3, self.bn3 = conv(width, out, 1), norm(out)
        else:
            self.conv1, self.bn1 = conv(channels, width, 3, stride), norm(width)
            self.conv2, self.bn2 = conv(width, width, 3), norm(width)
        self.bottleneck = bottleneck
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = torch.nn.Sequential(conv(channels, out, 1, stride), norm(out))

    def forward(self, x):
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.bottleneck:
            out = self.bn3(self.conv3(torch.relu(out)))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(torch.nn.Module):
    """What torchvision has under this name, with its names, and with a stem for small images."""

    def __init__(self, depth, width, in_channels, stem, norm=torch.nn.BatchNorm2d):
        super().__init__()
        self.small = stem == "small"
        self.conv1 = conv(in_channels, width, *((3,) if self.small else (7, 2)))
        self.bn1 = norm(width)
        channels = width
        for stage, count in enumerate(BLOCKS[depth]):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(channels, width * 2**stage, stride, norm, depth == 50))
                channels = width * 2**stage * (4 if depth == 50 else 1)
            setattr(self, f"layer{stage + 1}", torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(channels, NUM_CLASSES)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        if not self.small:
            x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3)))


class Small(torch.nn.Module):
    """One convolution with a batch norm, and a readout."""

    def __init__(self):
        super().__init__()
        self.conv1 = conv(1, 4, 3)
        self.bn1 = torch.nn.BatchNorm2d(4)
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.bn1(self.conv1(x))).mean((2, 3)))


def fill(module, *, buffers):
    """Draws the parameters, and the running statistics too or not."""
    kept = module.state_dict()
    wanted = {
        name: torch.tensor(drawn(name, tuple(value.shape)))
        for name, value in kept.items()
        if value.ndim and (buffers or "running" not in name)
    }
    module.load_state_dict(kept | wanted)
    return module


def resnet_figures(name):
    net, x = fill(ResNet(**NETS[name]), buffers=True), torch.tensor(images_of(name))
    with torch.no_grad():
        told = {"train": net.train()(x).tolist()}
        if name == "resnet18":  # Otherwise it would be one more program for the tests to compile.
            told["eval"] = fill(net, buffers=True).eval()(x).tolist()
    return told


def batch_norm_figures():
    norm = torch.nn.BatchNorm2d(SHAPE[1], momentum=1 - MOMENTUM)
    norm.load_state_dict(
        norm.state_dict()
        | {part: torch.tensor(drawn(f"bn.{part}", SHAPE[1:2])) for part in ("weight", "bias")}
    )
    told = {"train": [], "running_mean": [], "running_var": [], "eval": []}
    for step in range(STEPS):
        x = torch.tensor(drawn(f"input {step}", SHAPE))
        told["train"].append(norm.train()(x).tolist())
        told["running_mean"].append(norm.running_mean.tolist())
        told["running_var"].append(norm.running_var.tolist())
        told["eval"].append(norm.eval()(x).tolist())
    return told


def training_figures():
    net = fill(Small(), buffers=False).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(STEPS):
        x = torch.tensor(drawn(f"input {step}", (8, 1, 5, 5)))
        y = torch.tensor(labels_of(8, 3)).long()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    kept = {name: value.tolist() for name, value in net.state_dict().items() if value.ndim}
    return {"losses": losses, "state_dict": kept}


def figures():
    torch.set_num_threads(1)
    nets = {name: resnet_figures(name) for name in NETS}
    return {
        "torch": torch.__version__,
        **nets,
        "batch_norm": batch_norm_figures(),
        "training": training_figures(),
    }


def rounded(node):
    """Seven digits, which is what a float32 has."""
    if isinstance(node, dict):
        return {key: rounded(value) for key, value in node.items()}
    if isinstance(node, list):
        return [rounded(value) for value in node]
    return float(f"{node:.8g}") if isinstance(node, float) else node


if __name__ == "__main__":
    FIGURES.write_text(json.dumps(rounded(figures())) + "\n", encoding="utf-8")
