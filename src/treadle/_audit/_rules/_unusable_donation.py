"""`unusable-donation`: memory is given away, and nothing that comes out can live in it."""

from collections.abc import Iterator

import jax

from ..._units import binary
from .._audited import Audited
from .._finding import Finding
from .._leaf import Argument, Leaf, leaves_of
from .._measure import aliased_arguments
from ._base import Rule

_MOST = 3
"""Arrays that a message names."""


class UnusableDonation(Rule):
    """An array is donated, and the compiled program does not use its memory for what comes out."""

    slug = "unusable-donation"
    line = "donated"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each argument that is donated in vain."""
        program = audited.program
        if not program.is_compiled or not any(leaf.donated for leaf in program.leaves):
            return
        aliased = aliased_arguments(program)
        places = program.input_shardings
        for argument in program.inputs:
            wasted = [
                leaf
                for leaf in argument.leaves
                if leaf.donated and leaf.index not in aliased and places[leaf.index] is not None
            ]
            if wasted:
                yield _finding(self.slug, audited, argument, wasted)

    def evidence(self, audited: Audited) -> str | None:
        """Told by `undonated-state`."""
        return None


def _finding(slug: str, audited: Audited, argument: Argument, wasted: list[Leaf]) -> Finding:
    total = sum(leaf.nbytes for leaf in wasted)
    named = "; ".join(f"{leaf.path} ({_why(audited, leaf)})" for leaf in wasted[:_MOST])
    more = f"; and {len(wasted) - _MOST} more" if len(wasted) > _MOST else ""
    message = (
        f"{binary(total)} of `{argument.name}` is donated in vain: the arrays are gone after the "
        f"call, and nothing lives in their memory: {named}{more}"
    )
    fix = (
        f"Do not donate `{argument.name}`, or give its arrays back in the shapes, dtypes and "
        f"shardings that they came in."
    )
    return Finding(slug, "warning", message, audited.program.place, fix)


def _why(audited: Audited, leaf: Leaf) -> str:
    """Why nothing lives in the memory of an array."""
    outs = leaves_of(audited.program.output)
    like = f"{leaf.aval.dtype}{list(leaf.aval.shape)}"
    fitting = [
        out
        for out in outs
        if (out.aval.shape, out.aval.dtype) == (leaf.aval.shape, leaf.aval.dtype)
    ]
    if fitting:
        where = audited.program.output_shardings
        here = audited.program.input_shardings[leaf.index]
        if len(where) > max(out.index for out in fitting) and not any(
            _same(here, where[out.index], len(leaf.aval.shape)) for out in fitting
        ):
            return f"no output of {like} has its sharding"
        return f"every output of {like} lives elsewhere"
    dtypes = {str(out.aval.dtype) for out in outs if out.aval.shape == leaf.aval.shape}
    if dtypes and leaf.aval.shape:
        return f"{like}, and outputs of its shape are {', '.join(sorted(dtypes))}"
    return f"no output is {like}"


def _same(one: jax.sharding.Sharding, other: jax.sharding.Sharding, ndim: int) -> bool:
    return one.is_equivalent_to(other, ndim)
