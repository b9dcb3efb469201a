"""Every error treadle raises: one family, each also the fitting built-in."""

from typing import Any


class TreadleError(Exception):
    """The base of every error raised by treadle."""


class ArgumentValueError(TreadleError, ValueError):
    """An argument has a value that cannot be used."""


class ArgumentTypeError(TreadleError, TypeError):
    """An argument is of the wrong type."""


class LossError(TreadleError, TypeError):
    """The loss (or metric) function returned what cannot be trained on or averaged."""


class BatchError(TreadleError, ValueError):
    """A batch has a structure, shape or leaf that a step cannot take."""


class DataError(TreadleError, ValueError):
    """A source of batches is empty, ended early, or cannot be positioned."""


class TreeError(TreadleError, ValueError):
    """A pytree, a path or a glob does not fit."""


class CheckpointError(TreadleError, ValueError):
    """A checkpoint cannot be written, is damaged, or does not fit the tree it is read into."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint at the path that was asked for."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not what was written."""


class LeafNotFoundError(CheckpointError, KeyError):
    """A checkpoint has no leaf of the path that was asked for."""

    def __str__(self) -> str:
        # A `KeyError` prints its message in quotes.
        return str(self.args[0])


class ConsumedStateError(TreadleError, RuntimeError):
    """A state was used after a step had consumed (donated) it."""


class StateUnavailableError(TreadleError, RuntimeError):
    """A callback read the state on a step where it had not asked for it."""


class NonFiniteError(TreadleError, FloatingPointError):
    """A loss or gradient was NaN or infinite.

    Attributes:
        step: The number of the first step that met one: the `at` of `treadle.replay`.
    """

    def __init__(self, message: str, step: int | None = None):
        super().__init__(message)
        self.step = step

    def _in_run(self, run: str | None) -> None:
        """Names what `treadle.replay` is to begin with: a run, or nothing but the state."""
        told = str(self.args[0])
        self.args = (told.replace("treadle.replay(run,", f"treadle.replay({run!r},"),)


class MissingExtraError(TreadleError, ImportError):
    """A package is not installed that comes with one of treadle's extras."""


class LawError(TreadleError, AssertionError):
    """A law does not hold for a transformation (see `treadle.testing`).

    Attributes:
        diff: What differs between the two sides, a `treadle.tree.Diff`; `None` where the law broke
            otherwise.
    """

    def __init__(self, message: str, diff: Any = None):
        super().__init__(message)
        self.diff = diff

    def __str__(self) -> str:
        # Drawn when it is read: one example is broken hundreds of times while it is made smaller.
        return f"{self.args[0]}\n\n{self.diff}" if self.diff else str(self.args[0])


class ExportError(TreadleError, ValueError):
    """An exported program cannot be read, or does not run here."""
