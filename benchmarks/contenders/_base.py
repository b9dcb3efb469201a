"""What a contender is: something built from a configuration that can be told to train."""

import abc
import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from .._configs import Config


class Run(abc.ABC):
    """A model in the middle of its training.

    Built from `benchmarks.weights(config)`, fed `benchmarks.batches(config)` in order, trained by
    `adamw(1e-3)` with a weight decay of 1e-4.
    """

    @abc.abstractmethod
    def run(self, num_steps: int) -> None:
        """Trains that many steps more, and returns when the last one is computed."""

    @abc.abstractmethod
    def loss(self) -> float:
        """The loss of the current model on the first batch, dropout off.

        Read through the library's own forward pass: after the same number of steps, all
        contenders must agree on it. BatchNorm takes the batch's own mean and variance, so that no
        library's way of averaging them comes in.
        """


@dataclasses.dataclass(frozen=True)
class Contender:
    """A name on the table, and how to get it going.

    Args:
        name: What `--only` calls it.
        module: The file in this folder that builds it.
        about: What it is, for the docs.
        function: The function in that file that takes a `Config` and returns a `Run`.
        arguments: What else it takes.
        requires: Modules without which it is skipped.
        multiple: It can only run multiples of that many steps at full speed.
        ours: Whether it belongs in the smallest form, which has treadle and the floors only.
        unsuited: The kinds of model that it is not made for, and why.
    """

    name: str
    module: str
    about: str
    function: str = "build"
    arguments: tuple[Any, ...] = ()
    requires: tuple[str, ...] = ()
    multiple: int = 1
    ours: bool = False
    unsuited: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def obstacle(self, config: Config) -> str | None:
        """Why it cannot take part, if it cannot."""
        missing = self.missing()
        return self.unsuited.get(config.kind) if missing is None else f"{missing} is not installed"

    def missing(self) -> str | None:
        """The first module it needs that is not installed."""
        for module in self.requires:
            if importlib.util.find_spec(module) is None:
                return module
        return None

    def build(self, config: Config) -> Run:
        """Imports the library, makes the model and its optimizer."""
        module = importlib.import_module(f"benchmarks.contenders.{self.module}")
        builder: Callable[..., Run] = getattr(module, self.function)
        return builder(config, *self.arguments)
