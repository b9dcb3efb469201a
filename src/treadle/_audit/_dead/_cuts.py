"""Where gradients end, on the way from what comes in to the loss."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core as jex_core

from ..._jaxpr import inner_jaxprs
from .._private import is_backward
from .._source import Frame, Place, path_frames, user_place
from ._derivatives import is_differentiated


class Cut(NamedTuple):
    """An equation that has no derivative.

    Attributes:
        kind: `"stop_gradient"`, `"zero"` for a product with 0, or the primitive's name.
        path: The equation, behind all that enclose it.
        came: The inputs that what it takes was computed from, as bits.
        direct: Those that it takes as they are, or parts of them.
        is_final: Whether nothing else uses what it takes.
    """

    kind: str
    path: tuple[Any, ...]
    came: int
    direct: int
    is_final: bool

    @property
    def frames(self) -> list[Frame]:
        """The calls on the way to it."""
        return path_frames(self.path)

    @property
    def place(self) -> Place | None:
        """The user's line."""
        return user_place(self.path)

    @property
    def is_users(self) -> bool:
        """Whether the user wrote it, and not a library for purposes of its own."""
        found = self.frames
        last = next((at for at in reversed(range(len(found))) if found[at].library is None), None)
        if last is None:
            return False
        # Softmax subtracts a maximum that it does not differentiate.
        only_wrapped = self.kind == "stop_gradient"
        return all(
            frame.library == "python"
            or (
                frame.library == "jax"
                and (not only_wrapped or frame.code.co_filename.endswith(_WRAPPERS))
            )
            for frame in found[last + 1 :]
        )


_WRAPPERS = (
    "/ad.py",
    "/api.py",
    "/api_util.py",
    "/batching.py",
    "/core.py",
    "/interpreters/partial_eval.py",
    "/lax/lax.py",
    "/linear_util.py",
    "/pjit.py",
    "/source_info_util.py",
    "/traceback_util.py",
    "/tree.py",
    "/tree_util.py",
)
"""Files of JAX that stand between a call of `stop_gradient` and its equation."""

_STEPS = frozenset({"ceil", "floor", "round", "sign"})
"""Functions that are constant wherever they have a derivative."""

_MOVES = frozenset(
    {
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "copy",
        "dynamic_slice",
        "expand_dims",
        "gather",
        "reshape",
        "slice",
        "split",
        "squeeze",
        "stack",
        "transpose",
    }
)
"""What takes parts of arrays, or puts them together."""


class _Came(NamedTuple):
    """The inputs that a value came of, and those that it is, or a part of, as bits."""

    of: int = 0
    direct: int = 0

    def __or__(self, other: Any) -> "_Came":
        return _Came(self.of | other.of, self.direct | other.direct)


_NOTHING = _Came()


class Cuts:
    """Follows what comes in through all that is differentiated, until a gradient would end.

    Args:
        closed: The program.
        inputs: The inputs to follow, as bits.

    Attributes:
        found: Every cut, in the program's order.
        read: The inputs that something differentiated takes, as bits.
    """

    def __init__(self, closed: Any, inputs: int):
        self.found: list[Cut] = []
        self.read = 0
        followed = [inputs & (1 << at) for at in range(len(closed.jaxpr.invars))]
        self._run(closed.jaxpr, [_Came(each, each) for each in followed], (), inside=False)

    def of(self, index: int) -> list[Cut]:
        """The cuts on the ways of one input."""
        return [cut for cut in self.found if cut.came >> index & 1]

    def _run(
        self, jaxpr: Any, given: Sequence[_Came], path: tuple[Any, ...], *, inside: bool
    ) -> list[_Came]:
        came: dict[Any, _Came] = dict(zip(jaxpr.invars, given, strict=True))
        zeros: set[Any] = set()

        def look(atom: Any) -> _Came:
            return _NOTHING if isinstance(atom, jex_core.Literal) else came.get(atom, _NOTHING)

        for equation in jaxpr.eqns:
            if equation.primitive.name in _MOVES and _are_zero(equation.invars, zeros):
                zeros.update(equation.outvars)
            inputs = [look(atom) for atom in equation.invars]
            if not any(each.of for each in inputs) or is_backward(equation):
                continue
            within = inside or is_differentiated(equation)
            known = len(self.found)
            outs = self._equation(equation, inputs, (*path, equation), zeros, inside=within)
            if len(self.found) == known + 1 and self.found[-1].path[-1] is equation:
                final = _is_final(equation, jaxpr, came, zeros)
                self.found[-1] = self.found[-1]._replace(is_final=final)
            came.update(zip(equation.outvars, outs, strict=True))
        return [look(atom) for atom in jaxpr.outvars]

    def _equation(
        self,
        equation: Any,
        inputs: list[_Came],
        path: tuple[Any, ...],
        zeros: set[Any],
        *,
        inside: bool,
    ) -> list[_Came]:
        outs, name = equation.outvars, equation.primitive.name
        programs = [
            each
            for value in equation.params.values()
            for each in inner_jaxprs(value)
            if len(each.outvars) == len(outs) and len(each.invars) <= len(inputs)
        ]
        if name == "scan":
            return self._scan(equation, programs[0], inputs, path, inside=inside)
        if programs:
            # Of a `cond` or `while` not all programs take everything.
            cases = [
                self._run(each, inputs[len(inputs) - len(each.invars) :], path, inside=inside)
                for each in programs
            ]
            return [_either(each) for each in zip(*cases, strict=True)]
        total = _either(inputs)
        if inside:
            self.read |= total.of
        kind = _kind(equation, inputs, zeros)
        if kind is not None:
            if inside:
                self.found.append(Cut(kind, path, total.of, total.direct, False))
            return [_NOTHING] * len(outs)
        if len(outs) == len(inputs) > 1:
            return inputs
        return [total if name in _MOVES else _Came(total.of)] * len(outs)

    def _scan(
        self, equation: Any, program: Any, inputs: list[_Came], path: Any, *, inside: bool
    ) -> list[_Came]:
        first, carried = equation.params["num_consts"], equation.params["num_carry"]
        carry = inputs[first : first + carried]
        while True:
            known = len(self.found)
            given = [*inputs[:first], *carry, *inputs[first + carried :]]
            outs = self._run(program, given, path, inside=inside)
            new = [old | out for old, out in zip(carry, outs[:carried], strict=True)]
            if new == carry:
                return [*new, *outs[carried:]]
            # What was found is found again, of more inputs.
            del self.found[known:]
            carry = new


def _either(cases: Sequence[_Came]) -> _Came:
    total = _NOTHING
    for each in cases:
        total = total | each
    return total


def _are_zero(atoms: Sequence[Any], zeros: set[Any]) -> bool:
    return bool(atoms) and all(_is_zero(atom, zeros) for atom in atoms)


def _is_zero(atom: Any, zeros: set[Any]) -> bool:
    if isinstance(atom, jex_core.Literal):
        return getattr(atom.val, "size", 1) == 1 and bool(atom.val == 0)
    return atom in zeros


def _kind(equation: Any, inputs: Sequence[_Came], zeros: set[Any]) -> str | None:
    """How an equation cuts; `None` if it does not."""
    name = equation.primitive.name
    if name == "stop_gradient":
        return name
    if name in ("mul", "dot_general") and any(_is_zero(atom, zeros) for atom in equation.invars):
        return "zero"
    if name in _STEPS:
        return name
    if name == "select_n" and not any(each.of for each in inputs[1:]):
        return name
    if not any(_is_real(var.aval) for var in equation.outvars):
        return name
    return None


def _is_final(equation: Any, jaxpr: Any, came: dict[Any, _Came], zeros: set[Any]) -> bool:
    """Whether what a cut takes is taken by nothing else that has a derivative, and is used."""
    taken = [
        atom
        for atom in equation.invars
        if not isinstance(atom, jex_core.Literal) and came.get(atom, _NOTHING).of
    ]
    used = {id(atom) for each in jaxpr.eqns for atom in each.invars}
    used |= {id(atom) for atom in jaxpr.outvars}
    if not any(id(out) in used for out in equation.outvars):
        return False
    for atom in taken:
        if any(atom is out for out in jaxpr.outvars):
            return False
        for other in jaxpr.eqns:
            if other is equation or not any(atom is each for each in other.invars):
                continue
            inputs = [_Came(1) if each is atom else _NOTHING for each in other.invars]
            lives = any(id(out) in used for out in other.outvars)
            if lives and not is_backward(other) and _kind(other, inputs, zeros) is None:
                return False
    return True


def _is_real(aval: Any) -> bool:
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
