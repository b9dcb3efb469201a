"""A traced value that is used after its trace has ended."""

import os
import re

from jax.errors import UnexpectedTracerError

from .._note import Explanation
from .._raised import Raised

_TRACED = re.compile(r"The function being traced when the value leaked was (.+?) at .+? traced for")
_MADE = re.compile(r"leaked intermediate value was created on line (.+?):(\d+)(?::\d+)? \((.*)\)")


def explain_leaks(raised: Raised) -> Explanation | None:
    """Where a value was kept from one trace to the next."""
    if not isinstance(raised.error, UnexpectedTracerError):
        return None
    function = _TRACED.search(raised.message)
    made = _MADE.search(raised.message)
    place = f" at {os.path.basename(made[1])}:{made[2]}" if made else ""
    during = f"while JAX traced `{function[1]}`" if function else "while JAX traced a function"
    return Explanation(
        f"A value that was made{place} {during} was kept outside of that function (an attribute, a "
        f"global, a list), and is used after the trace has ended, when it stands for nothing.",
        "return it, and take it from the result: `return out, value`; in a loss as aux, `return "
        'loss, {"value": value}`. What a layer remembers goes into an `eqx.nn.State`.',
        "unexpectedtracererror",
        ("rules/leaked-tracer/",),
    )
