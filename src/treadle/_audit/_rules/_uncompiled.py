"""`uncompiled`: the function runs operation by operation."""

from collections.abc import Iterator
from typing import Any

from ..._jaxpr import inner_jaxprs
from .._audited import Audited
from .._finding import Finding
from ._base import Rule

_SMALL = 2
"""Equations of a compiled function that is not worth the name."""

_AROUND = frozenset(
    {
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "random_fold_in",
        "random_split",
        "random_unwrap",
        "random_wrap",
        "reshape",
        "slice",
        "squeeze",
    }
)
"""What may be done around a compiled function: keys are split, arrays are taken apart."""


class Uncompiled(Rule):
    """The function is not under `jax.jit`, nor does it only call one that is."""

    slug = "uncompiled"
    line = "compiled"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for the function."""
        program = audited.program
        if program.kind != "plain" or _only_calls(program.jaxpr.jaxpr):
            return
        count = len(program.jaxpr.jaxpr.eqns)
        if not count:
            return
        message = (
            f"`{program.name}` is not compiled: each call sends its {count:,} operations to the "
            f"device one by one, and traces what it differentiates anew"
        )
        yield Finding(self.slug, "warning", message, program.place, _FIX)

    def evidence(self, audited: Audited) -> str:
        """That it is one program."""
        return f"one program of {audited.program.num_equations:,} equations"


_FIX = "Compile the whole step, update included: `@eqx.filter_jit` or `@jax.jit` above it."


def _only_calls(jaxpr: Any) -> bool:
    """Whether a program does little more than call one function under `jit`."""
    calls = [equation for equation in jaxpr.eqns if equation.primitive.name not in _AROUND]
    if len(calls) != 1 or calls[0].primitive.name not in ("jit", "pjit"):
        return False
    if str(calls[0].params.get("name", "_")).startswith("_"):
        return False  # JAX's own.
    (inner,) = [each for value in calls[0].params.values() for each in inner_jaxprs(value)]
    return len(inner.eqns) > _SMALL
