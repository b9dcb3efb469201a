"""The private names of JAX that explanations need, all of them."""

import functools
import importlib
from typing import Any, NamedTuple

from jax.core import Tracer


class RawFrame(NamedTuple):
    """A place in the stack at which JAX noted an equation, from the innermost outwards."""

    code: Any
    line: int
    column: int
    end_line: int
    end_column: int


@functools.cache
def _location(code: Any, at: int) -> tuple[int, int, int, int]:
    # Three methods of jaxlib's `Traceback`, which JAX does not export.
    line, column, end_line, end_column = _traceback_class().code_addr2location(code, at)
    return line, column, end_line, end_column


@functools.cache
def _traceback_class() -> Any:
    return importlib.import_module("jaxlib._jax").Traceback


def raw_frames(equation: Any) -> list[RawFrame]:
    """The stack at which an equation was traced; it begins anew inside of each inner program."""
    traceback = equation.source_info.traceback
    if traceback is None:
        return []
    codes, places = traceback.raw_frames()
    return [RawFrame(code, *_location(code, at)) for code, at in zip(codes, places, strict=True)]


class Mapped(NamedTuple):
    """A traced value of which `vmap` has taken axes off.

    Attributes:
        axes: How long they are, from the outermost `vmap` inwards.
        shape: Its shape as the code sees it.
    """

    axes: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def whole(self) -> tuple[int, ...]:
        """Its shape with those axes, as JAX's own messages may have it."""
        return (*self.axes, *self.shape)


def mapped(value: Any) -> Mapped | None:
    """What the `vmap`s around a traced value have done to its shape.

    `None` where they have not mapped this value, or cannot be seen from it: an inner `jit` hides
    them.
    """
    axes: list[int] = []
    shape = None
    while isinstance(value, Tracer):
        axis, inner = getattr(value, "batch_dim", None), getattr(value, "val", None)
        if isinstance(axis, int) and inner is not None:
            shape = tuple(value.shape) if shape is None else shape
            axes.insert(0, inner.shape[axis])
            value = inner
        else:
            # Derivatives wrap what is mapped.
            value = getattr(value, "primal", None)
    return None if shape is None else Mapped(tuple(axes), shape)


def source_of_operation(error: BaseException) -> Any:
    """The traceback that JAX hangs on an error from a traced program: where the user wrote it."""
    cause = error.__cause__
    if type(cause).__name__ == "UnfilteredStackTrace" and cause is not None:
        cause = cause.__cause__
    if type(cause).__name__ == "JaxStackTraceBeforeTransformation" and cause is not None:
        return cause.__traceback__
    return None
