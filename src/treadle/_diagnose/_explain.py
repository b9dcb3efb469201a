"""`explain`: a note below the errors of JAX, with the user's line, the cause and a fix."""

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from .._errors import NonFiniteError, TreadleError
from ._kinds import KINDS
from ._note import is_note, note_text
from ._raised import Raised, causes


def annotate(error: BaseException, program: Callable[[], Any] | None = None) -> None:
    """Adds a note to an error that is known; leaves any other alone.

    Args:
        error: What was raised, before it goes on.
        program: Gives the traced program that was called, where that is known.
    """
    if not isinstance(error, Exception):
        return
    chain = [error, *causes(error)]
    if any(is_note(note) for one in chain for note in getattr(one, "__notes__", ())):
        return
    try:
        note = _note(chain, program)
    except Exception as failure:
        # Whatever is wrong with an explanation, the error itself has to come through.
        note = f"treadle: this error could not be explained ({type(failure).__name__}: {failure})."
    if note is not None:
        error.add_note(note)


def _note(chain: Sequence[BaseException], program: Callable[[], Any] | None) -> str | None:
    for error in chain:
        # Ours say themselves what is wrong, and what they were raised from is told by them.
        if isinstance(error, TreadleError) and not isinstance(error, NonFiniteError):
            return None
        raised = Raised(error, program)
        for kind in KINDS:
            explanation = kind(raised)
            if explanation is not None:
                return note_text(raised.where, explanation)
    return None


class _Explaining(contextlib.ContextDecorator):
    """What `explain` returns."""

    def __enter__(self) -> "_Explaining":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        found: TracebackType | None,
    ) -> None:
        if error is not None:
            annotate(error)


def explain() -> _Explaining:
    """Explains the errors that JAX raises, in a note below them.

    An error that is known gets a note (`error.add_note`) with your own line, the cause in a
    sentence, a fix with code, and the page that says more. It stays the same error with the same
    traceback. One that is not known gets no note, and none gets two. What runs inside of treadle's
    own steps, `fit`, `evaluate` and `predict` is explained without this.

    Returns:
        A context manager, which is a decorator too.

    Example:
        >>> with treadle.explain():
        ...     loss = jax.jit(loss_fn)(params, batch)
    """
    return _Explaining()
