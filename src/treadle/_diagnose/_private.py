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


@functools.cache
def _location(code: Any, at: int) -> tuple[int, int]:
    # Three methods of jaxlib's `Traceback`, which JAX does not export.
    line, column, _, _ = _traceback_class().code_addr2location(code, at)
    return line, column


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
    """A traced value of which `vmap` has taken an axis off.

    Attributes:
        whole: Its shape with that axis in front.
        shape: Its shape as the code sees it.
    """

    whole: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How long the axis is."""
        return self.whole[0]


def mapped(value: Any) -> Mapped | None:
    """What the innermost `vmap` around a traced value has done to its shape.

    `None` where it has not mapped this value, or cannot be seen from it: an inner `jit` hides it.
    """
    while isinstance(value, Tracer):
        axis = getattr(value, "batch_dim", None)
        inner = getattr(value, "val", None)
        if isinstance(axis, int) and inner is not None:
            shape = tuple(value.shape)
            return Mapped((inner.shape[axis], *shape), shape)
        # Derivatives wrap what is mapped.
        value = getattr(value, "primal", None)
    return None


def source_of_operation(error: BaseException) -> Any:
    """The traceback that JAX hangs on an error from a traced program: where the user wrote it."""
    cause = error.__cause__
    if type(cause).__name__ == "JaxStackTraceBeforeTransformation":
        return cause.__traceback__ if cause is not None else None
    return None
