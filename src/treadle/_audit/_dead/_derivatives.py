"""What JAX made of a function to differentiate it, by what it notes of each equation."""

import os
from typing import Any

from ..._jaxpr import inner_jaxprs
from .._private import raw_frames
from .._source import frames

_MAKES_ZEROS = ("instantiate", "zeros_like", "backward_pass")
"""How the functions of JAX begin that make the zeros of a gradient."""


def is_differentiated(equation: Any) -> bool:
    """Whether an equation is part of a function while that is differentiated."""
    stack = str(equation.source_info.name_stack)
    if "jvp(" in stack:
        return True
    # Older JAX names no transformations outside of named scopes.
    return not stack and any(_is_of_derivatives(raw.code) for raw in raw_frames(equation))


def differentiates(jaxpr: Any) -> bool:
    """Whether anything in a program is differentiated."""
    return any(
        is_differentiated(equation)
        or any(differentiates(inner) for p in equation.params.values() for inner in inner_jaxprs(p))
        for equation in jaxpr.eqns
    )


def is_zero_of_derivative(equation: Any) -> bool:
    """Whether a zero was made by JAX, because nothing of a function's result depends on something.

    It is made after the user's last line.
    """
    for frame in reversed(frames(equation)):
        if frame.library not in ("jax", "python"):
            return False
        if _is_of_derivatives(frame.code) and frame.code.co_name.startswith(_MAKES_ZEROS):
            return True
    return False


def _is_of_derivatives(code: Any) -> bool:
    return os.path.basename(code.co_filename) in ("ad.py", "ad_util.py")
