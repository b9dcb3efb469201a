"""`treadle demo`: a whole training on real images, from data to figures."""

import argparse
import signal
import time
from pathlib import Path
from typing import Any

from .._errors import ArgumentValueError
from ._extra import require_demo
from ._folder import claim, clear
from ._images import load_images
from ._report import Report
from ._training import RECIPES, set_up, settings_of, train

_DESCRIPTION = """Trains a multilayer perceptron, or a residual network, on images:
scikit-learn's 1,797 handwritten digits, or your own. Shows what it does, measures it on images held
out, and leaves metrics, checkpoints and two figures in a run folder. Interrupt it (Ctrl-C) and run
it again: it goes on where it stopped, bit for bit."""


def add_parser(commands: Any) -> None:
    """Adds `demo` to the subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo", help="train on handwritten digits", description=_DESCRIPTION
    )
    parser.add_argument(
        "--model",
        choices=tuple(RECIPES),
        default="mlp",
        help="a perceptron with dropout (mlp, by default), or a ResNet-18 with batch norms",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="a folder of IDX files (MNIST's format, .gz or not) or an .npz (x_train, y_train, "
        "x_test, y_test); without a test set, a fifth is held out",
    )
    parser.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help="where everything goes (runs/ and digits or the name of --data; for a ResNet with "
        "-resnet after it)",
    )
    steps = "; ".join(f"{name}: {recipe.steps:,}" for name, recipe in RECIPES.items())
    parser.add_argument("--steps", type=int, metavar="N", help=f"steps in all ({steps})")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the split and all draws (0)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="remove the run that is there, and start over"
    )
    parser.set_defaults(command=run_demo)


def run_demo(arguments: argparse.Namespace) -> int:
    """Runs the demo.

    Returns:
        The exit status: 0, or 128 and the signal's number where a signal ended the training.

    Raises:
        TreadleError: The arguments, the data or the run folder cannot be used.
    """
    recipe = RECIPES[arguments.model]
    steps = recipe.steps if arguments.steps is None else arguments.steps
    _check(steps, arguments.seed)
    # Before the training, not after it: a missing package is told at once.
    require_demo("matplotlib.figure")
    name = "digits" if arguments.data is None else arguments.data.resolve().stem
    run = arguments.run or Path("runs") / f"{name}{recipe.folder}"
    images = load_images(arguments.data, arguments.seed)
    settings = settings_of(arguments.model, name, images, arguments.seed, steps)
    # Before the folder is touched: the images may be too small for the model.
    setup = set_up(images, settings)
    if arguments.fresh:
        clear(run)
    claim(run, settings)
    report = Report(run, images, setup)
    report.beginning()
    start = time.perf_counter()
    state, history, rate = train(setup, steps, run)
    report.end(state, history, steps, time.perf_counter() - start, rate)
    return _status(history.stopped)


def _check(steps: int, seed: int) -> None:
    if steps < 1:
        raise ArgumentValueError(f"`--steps` (={steps}) must be at least 1.")
    if not 0 <= seed < 2**32:
        raise ArgumentValueError(f"`--seed` (={seed}) must be from 0 to 2**32 - 1.")


def _status(stopped: str | None) -> int:
    """As shells expect it of a command that a signal ended."""
    if stopped is None:
        return 0
    number = signal.SIGTERM if stopped.startswith("SIGTERM") else signal.SIGINT
    return 128 + int(number)
