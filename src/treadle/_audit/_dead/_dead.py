"""Which arrays of a state are updated although nothing of the data reaches them."""

import functools
from typing import NamedTuple

import jax.numpy as jnp

from .._audited import Audited
from .._leaf import Leaf, leaves_of
from .._owners import Owners
from .._private import is_array_of_keys
from .._source import Place, user_place
from ._cuts import Cut, Cuts
from ._derivatives import differentiates
from ._known import Known
from ._update import Updates
from ._zeros import Zeros

_TRAINED = "state.model/"


class Dead(NamedTuple):
    """An array that learns nothing.

    Attributes:
        leaf: As it comes in.
        reason: `"alone"` if it has a gradient which nothing of the data is in, `"unread"` if the
            loss does not read it, `"unused"` if nothing of what it is read for reaches the loss;
            else what its gradient ends at, `"zero"`, `"stop_gradient"` or another primitive.
        place: The user's line: of the cut; of the update, where there is none.
    """

    leaf: Leaf
    reason: str
    place: Place | None


class _Search:
    """The search for dead arrays in one program."""

    def __init__(self, audited: Audited):
        program = audited.program
        self.program = program
        self.of_step = program.kind == "step"
        self.pairs: dict[int, tuple[Leaf, Leaf]] = {}
        if self.of_step:
            given, new = program.inputs[0].leaves, leaves_of(program.output[0])
            self.pairs = {old.index: (old, out) for old, out in zip(given, new, strict=True)}
        for state in () if self.of_step else audited.states:
            self.pairs |= {
                old.index: (old, new)
                for old, new in state.pairs
                if isinstance(old, Leaf) and isinstance(new, Leaf)
            }
        self.owners = Owners(program.inputs)
        self.zeros = Zeros(program.jaxpr)
        self.new = self._news(self.zeros)

    def _news(self, zeros: Zeros) -> dict[int, Known]:
        return {index: zeros.outputs[new.index] for index, (_, new) in self.pairs.items()}

    # -- what depends on data -----------------------------------------------------------------

    @property
    def _data(self) -> int:
        """What is in no state, as bits; a gradient that is always the same moves things too."""
        count = len(self.program.leaves)
        return self.zeros.push | sum(1 << at for at in range(count) if at not in self.pairs)

    def _alive(self, data: int) -> set[int]:
        """Arrays whose new value depends on data, or on another that does."""
        found: set[int] = set()
        while True:
            reached = data | sum(1 << index for index in found)
            more = {index for index, new in self.new.items() if new.core & reached & ~(1 << index)}
            if more <= found:
                return found
            found |= more

    @functools.cached_property
    def alive(self) -> set[int]:
        """Those that depend on what is in no state."""
        return self._alive(self._data)

    @functools.cached_property
    def moving(self) -> set[int]:
        """Those that depend on anything that is no update of themselves.

        Data may be captured, or lie in a state; what is drawn from a key is as good as data.
        """
        data = self._data | self.zeros.constants
        for index, (old, _) in self.pairs.items():
            new = self.new[index]
            passed = new.same == index and not new.cut
            if passed or is_array_of_keys(old.aval) or old.aval.dtype == jnp.uint32:
                data |= 1 << index
        return self._alive(data)

    # -- what is dead -------------------------------------------------------------------------

    @functools.cached_property
    def unreached(self) -> set[int]:
        """What is updated and the loss of a step of treadle's does not depend on.

        Some optimizers mix the gradients of all arrays, so that no zero is left of one.
        """
        if not self.of_step:
            return set()
        loss = self.zeros.outputs[self.program.output[1]["loss"].index]
        return {
            index
            for index, new in self.new.items()
            if not loss.depends >> index & 1 and new.same != index and new.carries >> index & 1
        }

    def _is_suspect(self, index: int) -> bool:
        old, new = self.pairs[index][0], self.new[index]
        if not jnp.issubdtype(old.aval.dtype, jnp.inexact) or self.owners.is_of_optimizer(old):
            return False
        if index in self.unreached:
            return True
        if new.cut and index not in self.alive and new.carries >> index & 1:
            return self.of_step or old.aval.size > 1
        # Where older JAX does not say what is a gradient, nothing is known of constant ones.
        if self.of_step or old.aval.size <= 1 or not self.program.trains:
            return False
        own = new.carries >> index & 1 and new.same != index
        return bool(own) and bool(self.alive) and index not in self.moving

    @functools.cached_property
    def suspects(self) -> list[int]:
        """What is updated and does not learn, those that belong to others left out."""
        trains = self.program.trains or differentiates(self.program.jaxpr.jaxpr)
        if self.zeros.writes or not trains:
            return []
        if self.of_step:
            trained = (at for at, (old, _) in self.pairs.items() if old.path.startswith(_TRAINED))
            return [index for index in trained if self._is_suspect(index)]
        found = [index for index in self.pairs if self._is_suspect(index)]
        return [index for index in found if not self._belongs(index, found)]

    def _belongs(self, index: int, suspects: list[int]) -> bool:
        """Whether it is a moment or an average of another one."""
        new = self.new[index]
        used = [at for at, other in self.new.items() if at != index and other.core >> index & 1]
        if used and not new.cut and not self.zeros.read >> index & 1:
            return True
        related = {at for at in suspects if at != index and new.core >> at & 1}
        related |= {at for at in used if at in suspects}
        return any(self._rank(at) > self._rank(index) for at in related)

    def _rank(self, index: int) -> tuple[int, int]:
        """How much an array looks like a parameter: gradients read others of the same tree."""
        parts = self.pairs[index][0].path.split("/")
        near = [
            at
            for at, (old, _) in self.pairs.items()
            if self.zeros.read >> at & 1 and jnp.issubdtype(old.aval.dtype, jnp.inexact)
        ]
        paths = [self.pairs[at][0].path.split("/") for at in near]
        levels = sum(any(path[:depth] == parts[:depth] for path in paths) for depth in (1, 2))
        return levels, -index

    @functools.cached_property
    def frozen(self) -> set[int]:
        """Suspects that would stay as they are if all moments were zero, as they are at first.

        Their gradients are set to zero, before an optimizer that has moments.
        """
        told = self.unreached
        unclear = [at for at in self.suspects if not self.new[at].cut and at not in told]
        if not unclear:
            return set()
        zero = {
            index
            for index, (old, _) in self.pairs.items()
            if jnp.issubdtype(old.aval.dtype, jnp.inexact)
            and not self.zeros.read >> index & 1
            and index not in unclear
        }
        while True:
            new = self._news(Zeros(self.program.jaxpr, frozenset(zero)))
            still = {index for index in zero if new[index].is_zero}
            if still == zero:
                return {index for index in unclear if new[index].same == index}
            zero = still

    # -- and why ------------------------------------------------------------------------------

    def dead(self) -> list[Dead]:
        """Every array that learns nothing, and is neither a buffer nor frozen."""
        if not self.suspects:
            return []
        cuts = Cuts(self.program.jaxpr, sum(1 << index for index in self.suspects))
        updates = Updates(self.program.jaxpr)
        found = []
        for index in self.suspects:
            leaf, new = self.pairs[index]
            if index in self.frozen or _is_buffer(leaf, cuts.of(index), self.owners):
                continue
            reason, place = "alone", None
            if self.new[index].cut or index in self.unreached:
                reason = "unused" if cuts.read >> index & 1 else "unread"
                cut = _main(cuts.of(index))
                if cut is not None:
                    reason, place = cut.kind, cut.place
            if place is None:
                place = None if self.of_step else user_place(updates.path(new.index))
            found.append(Dead(leaf, reason, place or self.program.place))
        return found


def _is_buffer(leaf: Leaf, cuts: list[Cut], owners: Owners) -> bool:
    """Whether a method of its own module keeps gradients from an array."""
    return any(
        owners.wrote(cut.frames, leaf, direct=bool(cut.direct >> leaf.index & 1))
        for cut in cuts
        if cut.kind == "stop_gradient"
    )


def _main(cuts: list[Cut]) -> Cut | None:
    """The cut that is to blame: behind the last one there are no others."""
    users = [cut for cut in cuts if cut.is_users]
    for kind in ("stop_gradient", "zero"):
        of_kind = [cut for cut in users if cut.kind == kind]
        if of_kind:
            return of_kind[-1]
    # A `relu` compares too, and hands its argument on.
    final = [cut for cut in users if cut.is_final]
    return final[-1] if final else None


def dead_of(audited: Audited) -> list[Dead]:
    """Every array of a step's state that is updated, and learns nothing."""
    return _Search(audited).dead()
