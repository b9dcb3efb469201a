"""`float64`: arrays of float64 in a program that is not meant to be in float64."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from .._audited import Audited
from .._dtypes._doubles import Origin, doubles, is_double, narrower
from .._finding import Finding
from .._leaf import leaves_of
from .._source import Place
from ._base import Rule


class Float64(Rule):
    """Where 64-bit types are on, something computes arrays in float64."""

    slug = "float64"
    line = "dtypes"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each line that makes float64, and one for all arguments."""
        if _is_meant(audited):
            return
        lines: dict[Place, Origin] = {}
        came_in: list[Origin] = []
        for origin in doubles(audited.program.jaxpr):
            if origin.place is None:
                came_in.append(origin)
            else:
                lines.setdefault(origin.place, origin)
        if came_in:
            yield _of_arguments(audited, came_in)
        for place, origin in lines.items():
            message = (
                f"{origin.text} arises here, and arrays are computed in it: twice the memory, and "
                f"a small fraction of the speed on accelerators"
            )
            yield Finding(self.slug, "warning", message, place, _AT_LINE)

    def evidence(self, audited: Audited) -> str:
        """That there is none, or that all of it is."""
        used = any(is_double(leaf.aval) for leaf in audited.program.leaves)
        return "float64 throughout, as the arguments are" if used else "no arrays in float64"


_AT_LINE = (
    "Name the dtype, `dtype=x.dtype` or `jnp.float32`: NumPy, Python's `float`, and JAX's own "
    "defaults mean float64 where `jax_enable_x64` is on."
)
_AT_ARGUMENT = (
    "Cast it before it comes in: `np.asarray(x, np.float32)`; NumPy makes float64 by default."
)


def _is_meant(audited: Audited) -> bool:
    """Whether float64 was chosen: what is trained, or else everything that comes in, is in it."""
    program = audited.program
    arrays = [leaf.aval for state in audited.states for leaf in leaves_of(state.given)]
    arrays = _real(arrays) or _real([leaf.aval for leaf in program.leaves])
    if arrays:
        return all(is_double(aval) for aval in arrays)
    return not narrower(program.jaxpr)


def _real(avals: list[Any]) -> list[Any]:
    """Those of real or complex numbers, and of more than one."""
    return [aval for aval in avals if aval.size > 1 and jnp.issubdtype(aval.dtype, jnp.inexact)]


def _of_arguments(audited: Audited, found: list[Origin]) -> Finding:
    leaves = audited.program.leaves
    names = [f"`{leaves[origin.argument].path}` ({origin.text})" for origin in found]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    message = (
        f"{shown} comes in as float64, and arrays are computed in it, the others widened to match: "
        f"twice the memory, and a small fraction of the speed on accelerators"
    )
    return Finding(Float64.slug, "warning", message, audited.program.place, _AT_ARGUMENT)
