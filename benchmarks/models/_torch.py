"""The models in PyTorch layers."""

import itertools

import torch
from torch import nn

from .._configs import NUM_CLASSES, Config, Weights


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(config.sizes)])
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x):
        *hidden, last = self.layers
        for layer in hidden:
            x = self.dropout(torch.relu(layer(x)))
        return last(x)


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.num_heads = config.num_heads
        for role in ("query", "key", "value", "output"):
            setattr(self, role, nn.Linear(config.width, config.width))

    def forward(self, x):
        heads = [
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = nn.functional.scaled_dot_product_attention(*heads)
        return self.output(mixed.transpose(-2, -3).flatten(-2))


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        width = config.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(config)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        hidden = nn.functional.gelu(self.up(self.norm2(x)), approximate="tanh")
        return x + self.down(hidden)


class Transformer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, NUM_CLASSES)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=-2))


class ConvNorm(nn.Module):
    def __init__(self, channels: int, width: int, side: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, side, stride, padding=side // 2, bias=False)
        self.norm = nn.BatchNorm2d(width, momentum=0.01)

    def forward(self, x):
        return self.norm(self.conv(x))


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, width: int):
        super().__init__()
        stride = 1 if width == channels else 2
        self.first = ConvNorm(channels, width, 3, stride)
        self.second = ConvNorm(width, width, 3)
        self.skip = nn.Identity() if stride == 1 else ConvNorm(channels, width, 1, stride)

    def forward(self, x):
        hidden = self.second(torch.relu(self.first(x)))
        return torch.relu(self.skip(x) + hidden)


class ResNet(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        widths = (config.width, *config.block_widths)
        self.stem = ConvNorm(1, config.width, 3)
        self.blocks = nn.Sequential(*[ResidualBlock(a, b) for a, b in itertools.pairwise(widths)])
        self.head = nn.Linear(widths[-1], NUM_CLASSES)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(x.mean(dim=(-2, -1)))


def model(config: Config, weights: Weights) -> nn.Module:
    """The configuration's model, holding `weights`."""
    built = {"mlp": MLP, "transformer": Transformer, "resnet": ResNet}[config.kind](config)
    state = {name.replace("/", "."): torch.from_numpy(value) for name, value in weights.items()}
    # What is no weight (BatchNorm's running averages) stays as it is.
    averages = dict(built.named_buffers())
    built.load_state_dict(state | averages)
    return built
