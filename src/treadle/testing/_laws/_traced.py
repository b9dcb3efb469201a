"""Calling what may not work under a transformation of JAX's."""

from collections.abc import Callable
from typing import Any

import jax

from ._law import Law
from ._law import __tracebackhide__ as __tracebackhide__

# Of what works on arrays and not on tracers: JAX's own errors, those of a shape, an index or an
# attribute that a tracer does not have, and of a rule that is missing.
UNTRACEABLE = (TypeError, ValueError, LookupError, AttributeError, RuntimeError)


class Attempt:
    """One call under a transformation, made before the common one.

    Before it, so that what a function remembers of its first call are tracers, which show.

    Args:
        law: Which law it is for.
        transformed: The function under the transformation.
        args: Its arguments.

    Attributes:
        result: What it gave; `None` where it raised.
    """

    def __init__(self, law: Law, transformed: Callable[..., Any], *args: Any):
        self._law = law
        self._error: Exception | None = None
        self.result: Any = None
        try:
            self.result = transformed(*args)
        except UNTRACEABLE as error:
            self._error = error

    def common(self, function: Callable[..., Any], *args: Any) -> Any:
        """The call without the transformation.

        Raises:
            LawError: It changed its arguments, or needs what the transformation left behind.
        """
        try:
            return self._law.call("f", function, *args)
        except jax.errors.UnexpectedTracerError as error:
            raise self._law.broken(
                "f keeps something of an earlier call, which it was traced in, outside of its "
                f"arguments and its result: {first_line(error)}"
            ) from error

    def require(self, told: str) -> None:
        """Raises what the transformed call raised, once the common one is known to work.

        Raises:
            LawError: From that error.
        """
        if self._error is not None:
            raise self._law.broken(f"{told}: {first_line(self._error)}") from self._error


def first_line(error: Exception) -> str:
    """What an error says, in a line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}"
