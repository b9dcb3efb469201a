"""What the demo says: in the terminal, and as figures."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .._loop import History
from .._predict import predict
from .._state import TrainState
from ..track._jsonl import read_jsonl
from ._curves import plot_curves
from ._gallery import Predictions, plot_predictions
from ._prepare import Images
from ._training import Setup

_BATCH_SIZE = 512
_FILES = {
    "curves.png": "loss and accuracy, step by step",
    "predictions.png": "test images with the model's answers",
    "metrics.jsonl": "the same figures as numbers",
    "checkpoints": "where the training goes on from",
    "environment.json": "versions, devices and command of each start",
}


class Report:
    """Tells what a run does.

    Args:
        run: Its folder.
        images: What it trains on.
        setup: What it trains, and how.
        console: Where to; standard output by default.
    """

    def __init__(self, run: Path, images: Images, setup: Setup, console: Console | None = None):
        self._run = run
        self._images = images
        self._setup = setup
        self._console = console or Console(highlight=False)

    def beginning(self) -> None:
        """What is trained, and on what."""
        images = self._images
        size = "x".join(map(str, images.shape))
        self._console.print(
            f"\n[bold]{escape(images.name)}[/bold]: {len(images.y_train):,} images of {size} to "
            f"train on, {len(images.y_test):,} to test, {images.num_classes} classes\n"
        )
        self._console.print(self._setup.summary)

    def end(
        self,
        state: TrainState,
        history: History,
        num_steps: int,
        seconds: float,
        rate: float | None,
    ) -> None:
        """What came of it, also as figures.

        Args:
            state: As `fit` gave it back.
            history: Likewise.
            num_steps: Where the training was to end.
            seconds: How long `fit` took.
            rate: Examples a second; `None` where no step was taken.
        """
        recipe = self._setup.recipe
        told = self._predictions(state)
        title = f"{recipe.title} on {self._images.name}"
        rows = read_jsonl(self._run / "metrics.jsonl")
        plot_curves(rows, self._run / "curves.png", title, recipe.train_label)
        plot_predictions(
            told,
            self._run / "predictions.png",
            f"{title}: test images, the model's answer and its probability",
        )
        self._console.print(self._figures(told, state, seconds, rate))
        self._say_files()
        self._console.print(_farewell(history, int(state.step), num_steps, rate))

    def _figures(
        self, told: Predictions, state: TrainState, seconds: float, rate: float | None
    ) -> Table:
        train_right = self._answers(state, self._images.x_train)[0] == self._images.y_train
        table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
        table.add_column()
        table.add_column(justify="right", style="bold")
        table.add_column(style="dim")
        table.add_row("steps", f"{int(state.step):,}")
        table.add_row("train accuracy", *_share(train_right))
        table.add_row("test accuracy", *_share(told.guess == told.truth))
        if rate is not None:
            table.add_row("examples/s", f"{rate:,.0f}", "tests and checkpoints included")
            table.add_row("time", f"{seconds:.1f} s", "compilation included")
        return table

    def _say_files(self) -> None:
        # Not in the table, which would break a long path; this line the terminal may break.
        self._console.print(f"In [bold]{escape(str(self._run))}[/bold]:", soft_wrap=True)
        table = Table(box=None, show_header=False, padding=(0, 2))
        for name, what in _FILES.items():
            table.add_row(name, what)
        self._console.print(table)

    def _predictions(self, state: TrainState) -> Predictions:
        images = self._images
        guess, certainty = self._answers(state, images.x_test)
        return Predictions(
            images.x_test.reshape(-1, *images.shape), images.y_test, guess, certainty
        )

    def _answers(
        self, state: TrainState, rows: Float[np.ndarray, "n size"]
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """The likeliest class of each image, and its probability."""
        x = self._setup.recipe.as_input(rows, self._images.shape)
        logits = predict(state, x, batch_size=min(_BATCH_SIZE, len(x)))
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        return logits.argmax(axis=1), probabilities.max(axis=1)


def _share(right: Bool[np.ndarray, " n"]) -> tuple[str, str]:
    return f"{100 * right.mean():.2f} %", f"{right.sum():,} of {len(right):,} images"


def _farewell(history: History, step: int, num_steps: int, rate: float | None) -> str:
    if history.stopped is not None:
        return (
            f"\nStopped at step {step:,} of {num_steps:,}. "
            "[bold]Run the same command again to go on.[/bold]\n"
        )
    if rate is None:
        return (
            f"\nThis run is done: it has taken {step:,} steps. [bold]--fresh[/bold] starts over, "
            "[bold]--seed[/bold] and [bold]--run[/bold] make another.\n"
        )
    return "\nDone. Run again, it finds nothing left to do; [bold]--fresh[/bold] starts over.\n"
