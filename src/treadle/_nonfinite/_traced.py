"""A step traced so that its operations know their modules, and where examples lie is known."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from .._custom_types import Batch, LossFn
from .._loss import LossCall
from .._precision import Precision
from .._step import TrainStep
from ..tree._forward import with_recorders
from ._code import LOOPS, Stop, called_by


@dataclasses.dataclass(frozen=True)
class _NamedCall:
    """A loss whose model's modules mark what they compute.

    Attributes:
        call: The loss as it is.
        names: The path of the module that each mark stands for; known once it was traced.
    """

    call: LossCall
    names: dict[int, str]

    @property
    def loss_fn(self) -> LossFn:
        return self.call.loss_fn

    @property
    def batched(self) -> bool:
        return self.call.batched

    @property
    def stateful(self) -> bool:
        return self.call.stateful

    @property
    def precision(self) -> Precision | None:
        return self.call.precision

    def totals(self, model: Any, *arguments: Any) -> Any:
        """As `LossCall.totals`."""
        recorders: dict[str, Any] = {}
        marked = with_recorders(model, "", recorders)
        self.names.update({each.number: path for path, each in recorders.items()})
        return self.call.totals(marked, *arguments)


def named(step: TrainStep) -> tuple[TrainStep, dict[int, str]]:
    """The same step, whose operations are marked with the module they belong to.

    Returns:
        The step, and the path of the module that each mark stands for, once it was traced.
    """
    names: dict[int, str] = {}
    call: Any = _NamedCall(step._spec.loss.call, names)
    twin = object.__new__(TrainStep)
    twin._setup(step._spec._replace(loss=step._spec.loss._replace(call=call)), step._donate)
    return twin, names


def doubled(batch: Batch, axis: int) -> Batch:
    """The type of a batch of twice as many examples."""

    def double(leaf: Any) -> jax.ShapeDtypeStruct:
        shape = list(np.shape(leaf))
        shape[axis] *= 2
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype) if _is_numpy(leaf) else leaf.dtype
        return jax.ShapeDtypeStruct(tuple(shape), dtype)

    return jax.tree.map(double, batch)


def _is_numpy(leaf: Any) -> bool:
    return isinstance(leaf, (np.ndarray, np.generic))


def equation_at(program: Any, position: Sequence[Stop], like: Sequence[Any]) -> Any:
    """The equation in the same place of another trace; `None` where it is another program.

    Args:
        program: The other trace.
        position: The place.
        like: The equations on the way there, in the first trace.
    """
    equation = None
    for stop, mine in zip(position, like, strict=True):
        equations = getattr(program, "jaxpr", program).eqns
        if stop.at >= len(equations):
            return None
        equation = equations[stop.at]
        if equation.primitive.name != mine.primitive.name:
            return None
        program = called_by(equation)
        if equation.primitive.name in LOOPS:
            program = _body(equation, stop.branch)
    return equation


def _body(equation: Any, branch: int) -> Any:
    params = equation.params
    if equation.primitive.name == "scan":
        return params["jaxpr"]
    if equation.primitive.name == "cond":
        return params["branches"][branch]
    return params["cond_jaxpr" if branch else "body_jaxpr"]


def axis_of_examples(one: tuple[int, ...], two: tuple[int, ...]) -> int | None:
    """Which axis of an array grew with the batch; `None` where not exactly one did."""
    if len(one) != len(two):
        return None
    grown = [at for at, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    return grown[0] if len(grown) == 1 and two[grown[0]] == 2 * one[grown[0]] else None
