"""`uncompiled`: the function runs operation by operation."""

from collections.abc import Iterator

from ..._units import counted
from .._audited import Audited
from .._finding import Finding
from ._base import Rule


class Uncompiled(Rule):
    """The function is not under `jax.jit`, nor does it only call one that is."""

    slug = "uncompiled"
    line = "compiled"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for the function."""
        program = audited.program
        if program.is_compiled:
            return
        count = program.num_equations
        if not count:
            return
        message = (
            f"`{program.name}` is not compiled: each call sends its {count:,} operations to the "
            f"device one by one, and traces what it differentiates anew"
        )
        yield Finding(self.slug, "warning", message, program.place, _FIX)

    def evidence(self, audited: Audited) -> str:
        """That it is one program."""
        return f"one program of {counted(audited.program.num_equations, 'equation')}"


_FIX = "Compile the whole step, update included: `@eqx.filter_jit` or `@jax.jit` above it."
