"""What an audit looks at: a function as it was traced and compiled."""

import dataclasses
import functools
from typing import Any

import jax

from .._jaxpr import inner_jaxprs
from ._flow import Flow, flow_of
from ._keys._lineage import Lineage
from ._leaf import Argument, Leaf
from ._private import is_backward
from ._purity._comparison import Difference
from ._purity._held import Change
from ._purity._witness import Read
from ._source import Place


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What was traced and compiled.

    Attributes:
        kind: `"step"`, `"eval"`, `"filter_jit"`, `"jit"`, `"nnx_jit"` or `"plain"`.
        name: The user's name for the function.
        place: Where it is.
        jaxpr: The program, a `ClosedJaxpr`.
        differing: Where it differs from the same function traced for the second time.
        reads: Where the host was asked for what is another each time, if something was found.
        callbacks: The lines that ask JAX to call back, if something was found.
        inputs: The arguments.
        output: What comes out, a `Leaf` for each array.
        executable: As XLA compiled it.
        seconds: To trace, to lower, to compile.
        changes: What the function can reach and changed while it was traced.
    """

    kind: str
    name: str
    place: Place | None
    jaxpr: Any
    differing: tuple[Difference, ...]
    reads: tuple[Read, ...]
    callbacks: tuple[Place, ...]
    inputs: list[Argument]
    output: Any
    executable: Any
    seconds: tuple[float, float, float]
    changes: tuple[Change, ...]

    @functools.cached_property
    def lineage(self) -> Lineage:
        """Its keys."""
        return Lineage(self.jaxpr)

    @functools.cached_property
    def flow(self) -> Flow:
        """What comes of what."""
        return flow_of(self.jaxpr)

    @functools.cached_property
    def leaves(self) -> list[Leaf]:
        """All arrays that go in, in the program's order."""
        found = [leaf for argument in self.inputs for leaf in argument.leaves]
        return sorted(found, key=lambda leaf: leaf.index)

    @functools.cached_property
    def input_shardings(self) -> list[Any]:
        """Where each array that goes in lies; `None` for what the program does not read."""
        # A sharding that is `None` would vanish when flattened.
        _, treedef = jax.tree.flatten(self.executable.args_info)
        return treedef.flatten_up_to(self.executable.input_shardings)

    @functools.cached_property
    def output_shardings(self) -> list[Any]:
        """Where each array that comes out lies."""
        return jax.tree.leaves(
            self.executable.output_shardings,
            is_leaf=lambda leaf: isinstance(leaf, jax.sharding.Sharding),
        )

    @functools.cached_property
    def is_compiled(self) -> bool:
        """Whether it is under `jit`, or does little more than call one function that is."""
        return self.kind != "plain" or _only_calls(self.jaxpr.jaxpr)

    @functools.cached_property
    def trains(self) -> bool:
        """Whether it differentiates something."""
        return _differentiates(self.jaxpr.jaxpr)

    @functools.cached_property
    def num_equations(self) -> int:
        """Equations, those of inner programs included, each program as often as it is called."""
        return _count(self.jaxpr.jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(
        1 + sum(_count(inner) for value in eqn.params.values() for inner in inner_jaxprs(value))
        for eqn in jaxpr.eqns
    )


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


def _only_calls(jaxpr: Any) -> bool:
    """Whether a program does little more than call one function under `jit` or `pmap`."""
    calls = [equation for equation in jaxpr.eqns if equation.primitive.name not in _AROUND]
    if len(calls) != 1:
        return False
    inner = [each for value in calls[0].params.values() for each in inner_jaxprs(value)]
    if calls[0].primitive.name == "xla_pmap":
        return True
    if calls[0].primitive.name not in ("jit", "pjit"):
        return False
    names = [equation.primitive.name for equation in inner[0].eqns]
    if names == ["shard_map"]:
        return True  # `jax.pmap` since JAX 0.8.
    if str(calls[0].params.get("name", "_")).startswith("_"):
        return False  # JAX's own.
    return len(names) > _SMALL


def _differentiates(jaxpr: Any) -> bool:
    return any(
        is_backward(eqn)
        or any(_differentiates(inner) for v in eqn.params.values() for inner in inner_jaxprs(v))
        for eqn in jaxpr.eqns
    )
