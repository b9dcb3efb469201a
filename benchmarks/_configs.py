"""The workloads: a model's shape, its first weights and its batches, all as NumPy."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np

Weights: TypeAlias = dict[str, np.ndarray]
Pair: TypeAlias = tuple[np.ndarray, np.ndarray]

NUM_CLASSES = 10
NUM_BATCHES = 16
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-4
STEPS_PER_CALL = 50


@dataclasses.dataclass(frozen=True)
class Config:
    """One workload. Every one is a classifier: float32 inputs, ten classes, `adamw(1e-3)`.

    `depth` counts linear layers in an `"mlp"` and blocks in the others; `input_size` is the length
    of one input vector in an `"mlp"`, of one token in a `"transformer"`, and of an image's sides in
    a `"resnet"`.
    """

    name: str
    kind: Literal["mlp", "transformer", "resnet"]
    batch_size: int
    input_size: int
    width: int
    depth: int
    dropout: float = 0.0
    num_heads: int = 1
    num_tokens: int = 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example's input."""
        if self.kind == "transformer":
            return (self.num_tokens, self.input_size)
        if self.kind == "resnet":
            # One channel: so channels first and channels last lie alike in memory.
            return (1, self.input_size, self.input_size)
        return (self.input_size,)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The widths an MLP passes through, from its input to its logits."""
        return (self.input_size, *[self.width] * (self.depth - 1), NUM_CLASSES)

    @property
    def block_widths(self) -> tuple[int, ...]:
        """The channels of a ResNet's blocks; each after the first halves the image."""
        return tuple(self.width * 2**index for index in range(self.depth))

    @property
    def stateful(self) -> bool:
        """Whether the model keeps running averages beside its weights (BatchNorm)."""
        return self.kind == "resnet"

    @property
    def steps_per_call(self) -> int:
        """The steps that are fused into one dispatch.

        XLA runs convolutions inside a loop on the CPU several times slower than outside, so those
        steps are unrolled, and fifty of them would take a minute to compile.
        """
        return 10 if self.kind == "resnet" else STEPS_PER_CALL


CONFIGS = {
    config.name: config
    for config in (
        Config("tiny", "mlp", batch_size=8, input_size=784, width=32, depth=2),
        Config("ref", "mlp", batch_size=128, input_size=784, width=256, depth=2, dropout=0.1),
        Config("leafy", "mlp", batch_size=8, input_size=32, width=32, depth=24),
        Config(
            "tf",
            "transformer",
            batch_size=4,
            input_size=64,
            width=64,
            depth=4,
            num_heads=4,
            num_tokens=64,
        ),
        Config("resnet", "resnet", batch_size=32, input_size=16, width=16, depth=3),
        Config("small", "mlp", batch_size=8, input_size=32, width=32, depth=3),
    )
}

RACES = ("tiny", "ref", "leafy", "tf", "resnet")
"""Those that the races are run on; *small* is for the ensemble."""

ENSEMBLE_SIZE = 32

DEEP = Config("deep", "mlp", batch_size=8, input_size=16, width=16, depth=150)
"""The 901 leaves of the garbage collector's benchmark."""


def batches(config: Config, count: int = NUM_BATCHES) -> list[Pair]:
    """The batches every contender is fed: points around ten centres, and which centre it was.

    The second half repeats the first half's points under other labels. Nothing can learn that, so
    the loss stays well above zero, comparable, and away from denormal numbers, however long a
    contender runs.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(NUM_CLASSES, *config.input_shape))
    centres *= 4 / np.sqrt(centres[0].size)
    first, second = [], []
    for _ in range(count // 2):
        labels = rng.integers(0, NUM_CLASSES, size=config.batch_size).astype(np.int32)
        noise = rng.normal(size=(config.batch_size, *config.input_shape))
        inputs = (centres[labels] + noise).astype(np.float32)
        first.append((inputs, labels))
        second.append((inputs, (labels + 1) % NUM_CLASSES))
    return first + second


def stream(pairs: list[Pair], num_steps: int) -> Iterator[Pair]:
    """`num_steps` batches, going round; what a user's own generator of batches would be."""
    return itertools.islice(itertools.cycle(pairs), num_steps)


def stacked(pairs: list[Pair], num_steps: int, steps_per_call: int) -> Iterator[Pair]:
    """The same, `steps_per_call` consecutive batches at a time on a new leading axis."""
    batches = stream(pairs, num_steps)
    while chunk := tuple(itertools.islice(batches, steps_per_call)):
        inputs, labels = zip(*chunk, strict=True)
        yield np.stack(inputs), np.stack(labels)


def ready(config: Config) -> Iterator[Pair]:
    """The batches of fifty steps, stacked beforehand, round and round."""
    return itertools.cycle(list(stacked(batches(config), STEPS_PER_CALL, config.steps_per_call)))


def weights(config: Config, member: int = 0) -> Weights:
    """The first weights, by name: `weight` is `(out, in, ...)`, as Equinox and PyTorch keep it.

    Every contender starts from these, so that all of them go down the same losses; in an ensemble
    each member from its own.
    """
    rng = np.random.default_rng(1 + member)
    makers = {"mlp": _mlp_weights, "transformer": _transformer_weights, "resnet": _resnet_weights}
    return makers[config.kind](config, rng)


def _linear(rng: np.random.Generator, name: str, in_size: int, out_size: int, gain: float):
    scale = gain / np.sqrt(in_size)
    return {
        f"{name}/weight": (rng.normal(size=(out_size, in_size)) * scale).astype(np.float32),
        f"{name}/bias": np.zeros(out_size, np.float32),
    }


def _mlp_weights(config: Config, rng: np.random.Generator) -> Weights:
    found: Weights = {}
    for index, (in_size, out_size) in enumerate(itertools.pairwise(config.sizes)):
        found |= _linear(rng, f"layers/{index}", in_size, out_size, gain=np.sqrt(2))
    return found


def _norm(name: str, width: int) -> Weights:
    return {
        f"{name}/weight": np.ones(width, np.float32),
        f"{name}/bias": np.zeros(width, np.float32),
    }


def _transformer_weights(config: Config, rng: np.random.Generator) -> Weights:
    width = config.width
    found: Weights = {}
    for index in range(config.depth):
        block = f"blocks/{index}"
        found |= _norm(f"{block}/norm1", width)
        for name in ("query", "key", "value", "output"):
            found |= _linear(rng, f"{block}/attention/{name}", width, width, gain=1.0)
        found |= _norm(f"{block}/norm2", width)
        found |= _linear(rng, f"{block}/up", width, 4 * width, gain=1.0)
        found |= _linear(rng, f"{block}/down", 4 * width, width, gain=1.0)
    found |= _norm("norm", width)
    found |= _linear(rng, "head", width, NUM_CLASSES, gain=1.0)
    return found


def _conv_norm(rng: np.random.Generator, name: str, in_size: int, out_size: int, side: int):
    scale = np.sqrt(2 / (in_size * side**2))
    kernel = rng.normal(size=(out_size, in_size, side, side)) * scale
    return {f"{name}/conv/weight": kernel.astype(np.float32)} | _norm(f"{name}/norm", out_size)


def _resnet_weights(config: Config, rng: np.random.Generator) -> Weights:
    channels = config.width
    found = _conv_norm(rng, "stem", 1, channels, 3)
    for index, width in enumerate(config.block_widths):
        block = f"blocks/{index}"
        found |= _conv_norm(rng, f"{block}/first", channels, width, 3)
        found |= _conv_norm(rng, f"{block}/second", width, width, 3)
        if width != channels:
            found |= _conv_norm(rng, f"{block}/skip", channels, width, 1)
        channels = width
    return found | _linear(rng, "head", channels, NUM_CLASSES, gain=1.0)
