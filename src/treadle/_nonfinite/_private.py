"""The private names of JAX that interpreting a program needs, all of them."""

from typing import Any


def evaluate(equation: Any, values: list[Any]) -> list[Any]:
    """What one equation makes of its operands, as JAX's own interpreter does it."""
    primitive = equation.primitive
    bound = primitive.get_bind_params(equation.params)
    functions, params = bound if isinstance(bound, tuple) else ([], bound)  # Older JAX gives both.
    with equation.ctx.manager:
        out = primitive.bind(*functions, *values, **params)
    return list(out) if primitive.multiple_results else [out]
