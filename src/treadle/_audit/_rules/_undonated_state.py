"""`undonated-state`: the state is updated, and the old one is kept beside the new."""

from collections.abc import Iterator

from ..._units import binary
from .._audited import Audited
from .._finding import Finding
from .._leaf import Leaf
from .._program import Program
from .._sharing._examples import is_batch
from .._states import State
from ._base import Rule

_LEAST = 2**20
"""Bytes of an argument."""


class UndonatedState(Rule):
    """At least 1 MiB of an argument comes out updated, and its memory is not given away."""

    slug = "undonated-state"
    line = "donated"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for the function, with what would be saved."""
        program = audited.program
        if not program.is_compiled:
            return  # Only what is compiled can donate.
        kept = [(state, undonated(program, state)) for state in audited.states]
        large = [
            (state, leaves)
            for state, leaves in kept
            if _size(leaves) >= _LEAST
            # A batch under an attack is used again, for the next step.
            and not (isinstance(state.given, Leaf) and is_batch(audited, state.given))
        ]
        if large:
            saved = sum(_size(leaves) for _, leaves in large)
            names = ", ".join(f"`{state.name}` ({binary(_size(ls))})" for state, ls in large)
            said = "comes out updated and is" if len(large) == 1 else "come out updated and are"
            message = (
                f"{names}: {said} not donated, so old and new are in memory at once: "
                f"{binary(saved)} more than needed"
            )
            yield Finding(self.slug, "warning", message, program.place, _fix(program, large[0][0]))

    def evidence(self, audited: Audited) -> str | None:
        """What is donated, and what of it is aliased."""
        if not audited.states and not audited.figures.donated_bytes:
            return "nothing that comes in is updated"
        figures = audited.figures
        aliased = "not reported" if figures.aliased_bytes is None else binary(figures.aliased_bytes)
        return f"{binary(figures.donated_bytes)} donated, {aliased} aliased"


def undonated(program: Program, state: State) -> list[Leaf]:
    """The arrays of a state that come out new, in the same type, and are not donated."""
    jaxpr = program.jaxpr.jaxpr
    return [
        old
        for old, new in state.pairs
        if isinstance(old, Leaf)
        and isinstance(new, Leaf)
        and not old.donated
        # What comes out as it came in is not copied.
        and jaxpr.outvars[new.index] is not jaxpr.invars[old.index]
        and (old.aval.shape, old.aval.dtype) == (new.aval.shape, new.aval.dtype)
    ]


def _size(leaves: list[Leaf]) -> int:
    return sum(leaf.nbytes for leaf in leaves)


def _fix(program: Program, state: State) -> str:
    if program.kind == "step":
        return "Leave out `donate=False`: `TrainStep(..., donate=True)` is the default."
    if program.kind == "filter_jit":
        return (
            'Put the data first and donate the rest, `eqx.filter_jit(donate="all-except-first")`, '
            "and use what comes back, not what went in."
        )
    name = state.name.split("[")[0]
    return (
        f'`jax.jit(..., donate_argnames=("{name}",))`, and use what comes back, not what went in.'
    )
