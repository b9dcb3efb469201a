"""Loops of Python over data, which the program holds once for each turn.

Equations that were traced at one line stand in as many copies as the loop has turns. A loop over
data reads the same arrays, or parts of the same array, in each turn; a loop over layers reads
parameters of its own in each.
"""

import dataclasses
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from ..._jaxpr import inner_jaxprs
from .._private import is_array_of_keys, is_backward, traceback_of
from .._source import Place
from ._loops import Stack, Stacks, Turns

LEAST = 8
"""Turns."""

_MOVES = frozenset(
    {
        "slice",
        "dynamic_slice",
        "gather",
        "squeeze",
        "reshape",
        "expand_dims",
        "transpose",
        "broadcast_in_dim",
        "rev",
        "split",
        "unstack",
        "convert_element_type",
        "copy",
        "copy_p",
        "reduce_precision",
        "stop_gradient",
        "optimization_barrier",
        "sharding_constraint",
        "device_put",
        "pvary",
        "pcast",
        "random_wrap",
        "random_unwrap",
        "random_split",
        "random_fold_in",
        "concatenate",
        "pad",
        "select_n",
        "iota",
    }
)
"""Primitives that compute nothing."""

_PARTS = ("slice", "dynamic_slice", "gather", "split", "unstack")
_GATHERS = frozenset({"add", "add_any", "mul", "max", "min", "and", "or"})
"""Primitives that gather what the turns of a loop come to."""

_PRODUCTS = ("dot_general", "conv_general_dilated")
_MUCH = 16
"""Operations for each element that comes out."""


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """A loop over data that was unrolled.

    Attributes:
        place: The line that most of it comes from.
        turns: How often it runs.
        equations: How many equations it takes, all turns together.
        chained: Whether a turn needs what the one before computed.
    """

    place: Place
    turns: int
    equations: int
    chained: bool


def unrolled(closed: Any) -> list[Unrolled]:
    """The loops of a program, inner programs included, by their lines."""
    stacks, sizes = Stacks(), Sizes()
    found: dict[Place, Unrolled] = {}
    for jaxpr, times in _programs(closed.jaxpr):
        if len(jaxpr.eqns) < LEAST:
            continue
        for each in _Search(jaxpr, stacks, sizes).found():
            known = found.get(each.place)
            total = each.equations * times + (known.equations if known else 0)
            turns = max(each.turns, known.turns) if known else each.turns
            found[each.place] = dataclasses.replace(each, equations=total, turns=turns)
    return list(found.values())


def _programs(jaxpr: Any) -> list[tuple[Any, int]]:
    """Every program once, and how often it is called."""
    order: dict[int, Any] = {}
    times: Counter[int] = Counter()

    def note(each: Any, factor: int) -> None:
        order.setdefault(id(each), each)
        times[id(each)] += factor
        for inner, count in _called(each).items():
            note(inner_of[inner], factor * count)

    inner_of: dict[int, Any] = {}
    counts: dict[int, Counter[int]] = {}

    def _called(each: Any) -> Counter[int]:
        if id(each) not in counts:
            counts[id(each)] = Counter()
            for equation in each.eqns:
                for inner in _inner(equation):
                    inner_of[id(inner)] = inner
                    counts[id(each)][id(inner)] += 1
        return counts[id(each)]

    note(jaxpr, 1)
    return [(each, times[number]) for number, each in order.items()]


def _inner(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        yield from inner_jaxprs(value)


# -- what an equation is ---------------------------------------------------------------------------


class Size(NamedTuple):
    """What an equation takes.

    Attributes:
        equations: It and those of its inner programs.
        work: Operations.
        products: Those of matrix products and convolutions.
        moves: Whether it only moves elements, or counts places.
    """

    equations: int
    work: float
    products: float
    moves: bool


class Sizes:
    """The sizes of equations, each inner program measured once."""

    def __init__(self) -> None:
        self._known: dict[int, Size] = {}

    def of(self, equation: Any) -> Size:
        """The size of an equation."""
        inner = list(_inner(equation))
        if not inner:
            work = _work(equation)
            products = work if equation.primitive.name in _PRODUCTS else 0.0
            return Size(1, work, products, _only_moves(equation))
        parts = [self._program(each) for each in inner]
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        return Size(
            1 + sum(part.equations for part in parts),
            times * sum(part.work for part in parts),
            times * sum(part.products for part in parts),
            all(part.moves for part in parts),
        )

    def _program(self, jaxpr: Any) -> Size:
        if id(jaxpr) not in self._known:
            parts = [self.of(equation) for equation in jaxpr.eqns]
            self._known[id(jaxpr)] = Size(
                sum(part.equations for part in parts),
                sum(part.work for part in parts),
                sum(part.products for part in parts),
                all(part.moves for part in parts),
            )
        return self._known[id(jaxpr)]


def _only_moves(equation: Any) -> bool:
    return equation.primitive.name in _MOVES or not any(_is_float(v) for v in equation.outvars)


def _work(equation: Any) -> float:
    if _only_moves(equation):
        return 0.0
    out = float(getattr(equation.outvars[0].aval, "size", 1))
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * out * float(np.prod([shape[axis] for axis in contracted]))
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * out * kernel.size / max(features, 1)
    return float(max(out, *(getattr(v.aval, "size", 1) for v in equation.invars), 1))


def _is_float(atom: Any) -> bool:
    dtype = getattr(atom.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def _is_key(atom: Any) -> bool:
    """Whether something is a key: typed, or two words."""
    dtype = getattr(atom.aval, "dtype", None)
    if dtype is None:
        return False
    return is_array_of_keys(atom.aval) or (
        dtype == np.uint32 and bool(atom.aval.shape) and atom.aval.shape[-1] in (2, 4)
    )


# -- one program -----------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class _Group:
    """The equations that one loop traced.

    Attributes:
        loop: The loop.
        members: Their numbers, in order.
        inner: The loops inside of it.
    """

    loop: Turns
    members: list[int]
    inner: dict[Hashable, "_Group"]


class _Search:
    """Looks through one program, leaving out those inside of it.

    Args:
        jaxpr: The program.
        stacks: What is known of stacks.
        sizes: What is known of sizes.
    """

    def __init__(self, jaxpr: Any, stacks: Stacks, sizes: Sizes):
        self._equations = jaxpr.eqns
        self._stacks: list[Stack] = list(_stacks_of(jaxpr, stacks))
        self._size_of = sizes.of
        self._sizes: dict[int, Size] = {}
        self._backward: dict[int, bool] = {}
        self._maker: dict[Any, int] = {
            var: at for at, equation in enumerate(jaxpr.eqns) for var in equation.outvars
        }
        self._data = self._of_data(jaxpr)
        self._over_data: list[set[int]] = []

    def _size(self, at: int) -> Size:
        if at not in self._sizes:
            self._sizes[at] = self._size_of(self._equations[at])
        return self._sizes[at]

    def _is_backward(self, at: int) -> bool:
        if at not in self._backward:
            self._backward[at] = is_backward(self._equations[at])
        return self._backward[at]

    def found(self) -> Iterator[Unrolled]:
        """The loops over data."""
        for group in self._groups().values():
            yield from self._examine(group, 1)

    def _of_data(self, jaxpr: Any) -> list[bool]:
        """Of each equation, whether it depends on more than keys and numbers in the program."""
        known = {var: not _is_key(var) for var in (*jaxpr.constvars, *jaxpr.invars)}
        found = []
        for equation in jaxpr.eqns:
            depends = any(
                known.get(atom, False)
                for atom in equation.invars
                if not isinstance(atom, jex_core.Literal)
            )
            found.append(depends)
            known.update(dict.fromkeys(equation.outvars, depends))
        return found

    def _groups(self) -> dict[Hashable, _Group]:
        top: dict[Hashable, _Group] = {}
        for at, stack in enumerate(self._stacks):
            level = top
            for loop in stack.loops:
                group = level.setdefault(loop.key, _Group(loop, [], {}))
                group.members.append(at)
                level = group.inner
        return top

    def _examine(self, group: _Group, around: int) -> Iterator[Unrolled]:
        """A loop and those inside of it.

        Args:
            group: The loop.
            around: How often the loops around it run it.
        """
        if len(group.members) < LEAST * around:
            return
        forward = [at for at in group.members if not self._is_backward(at)] or group.members
        turns, least = self._turns(group, forward, around)
        is_one = turns >= LEAST * around and self._is_over_data(group, forward, turns, around)
        if is_one:
            self._over_data.append(set(group.members))
        if is_one and group.loop.mine:
            chain = self._chain(forward, group.members)
            yield Unrolled(
                self._place(group, chain or group.members),
                turns // around,
                sum(self._size(at).equations for at in group.members),
                bool(chain),
            )
        for each in group.inner.values():
            yield from self._examine(each, turns if is_one else max(around, least))

    def _turns(self, group: _Group, forward: list[int], around: int) -> tuple[int, int]:
        """How often a loop runs, and how often at least.

        Equations right in the loop stand there as often as it runs, or several times as often.
        """
        inside = {at for each in group.inner.values() for at in each.members}
        own = Counter(self._kind(at) for at in forward if at not in inside)
        if not own:
            turns = self._turns_by_reads(forward, around)
            return turns, turns
        counts = Counter(own.values())
        least = min(count for count, kinds in counts.items() if 4 * kinds >= max(counts.values()))
        enough = [count for count, kinds in counts.items() if 10 * kinds >= len(own)]
        most = max(enough, default=max(own.values()))
        turns = min((c for c in enough if c >= LEAST * around), default=most)
        # Derivatives of derivatives have a line several times in each turn.
        fewer = [count for count, kinds in counts.items() if 4 * kinds >= counts[turns]]
        turns = min((c for c in fewer if around < c < turns and turns % c == 0), default=turns)
        # Some of what stands in the loop is left out of its first turn.
        near = [count for count in counts if turns <= count <= 1.25 * turns]
        return max(near, key=lambda count: counts[count]), least

    def _turns_by_reads(self, forward: list[int], around: int) -> int:
        """Where everything is in a loop inside: how often what that reads turn by turn is read."""
        reads = self._reads(forward, set(forward)).values()
        enough = LEAST * around
        counts = [(count, total) for roots, total in reads for count in roots.values()]
        found = [count for count, total in counts if enough <= count < total]
        if not found:
            found = [count for count, total in counts if count == total >= enough]
        return min(found, default=around)

    def _kind(self, at: int) -> Hashable:
        return self._stacks[at].key, self._equations[at].primitive.name

    def _root(self, atom: Any) -> Any:
        """What an array is a part of, or the same in another shape."""
        while True:
            at = self._maker.get(atom)
            if at is None or not self._size(at).moves:
                return atom
            equation = self._equations[at]
            arrays = [v for v in equation.invars if not isinstance(v, jex_core.Literal)]
            if not arrays or equation.primitive.name in ("concatenate", "select_n", "random_split"):
                return atom
            source = max(arrays, key=lambda v: (_is_float(v) or _is_key(v), v.aval.size))
            if _is_of_flat(equation) and self._is_part(source):
                return atom  # A parameter out of one long vector of all of them.
            atom = source

    def _is_part(self, atom: Any) -> bool:
        at = self._maker.get(atom)
        return at is not None and self._equations[at].primitive.name in _PARTS

    def _reads(
        self, forward: Iterable[int], members: set[int]
    ) -> dict[tuple[Hashable, int], tuple[Counter[Any], int]]:
        """What comes from outside, for each operand of each kind, and how often it is read."""
        found: dict[tuple[Hashable, int], tuple[Counter[Any], int]] = {}
        for at in forward:
            for place, atom in enumerate(self._equations[at].invars):
                roots, total = found.get((self._kind(at), place), (Counter(), 0))
                root = self._outside(atom, members)
                if root is not None:
                    roots[root] += 1
                found[self._kind(at), place] = roots, total + 1
        return found

    def _outside(self, atom: Any, members: set[int]) -> Any:
        """The root of an operand that a loop does not make itself; `None` if it does."""
        if isinstance(atom, jex_core.Literal):
            large = getattr(atom.val, "size", 1) > 1 and _is_float(atom)
            return ("literal", id(atom.val)) if large else None
        if self._maker.get(atom) in members:
            return None
        root = self._root(atom)
        if self._maker.get(root) in members:
            return None
        at = self._maker.get(root)
        if at is not None:
            return root if self._data[at] else None  # Zeros to begin with.
        return None if _is_count(root) else root

    def _is_over_data(self, group: _Group, forward: list[int], turns: int, around: int) -> bool:
        """Whether what the turns read of their own is only parts of the same."""
        members = set(group.members)
        if not self._computes(forward, around):
            return False
        own: set[Any] = set()
        shares = False
        seldom: set[tuple[Hashable, int]] = set()
        for kind, (roots, total) in self._reads(forward, members).items():
            rare = [root for root, count in roots.items() if count < LEAST]
            shares = shares or len(rare) < len(roots)
            if total < LEAST:
                seldom.add(kind)
            elif LEAST * sum(roots[root] for root in rare) > total:
                own |= set(rare)  # More than what the first turn begins with.
        if own:
            heavy = shares or bool(self._heavy(forward))
            return heavy and self._come_of_loops(own)
        first = forward[min(int(1.5 * len(forward) * around / turns), len(forward) - 1)]
        return 2 * len(self._later(forward, members, seldom, first)) < turns // around

    def _later(
        self, forward: list[int], members: set[int], kinds: set[tuple[Hashable, int]], first: int
    ) -> set[Any]:
        """What is read after the first turn by what hardly any turn has."""
        return {
            root
            for at in forward
            if at > first
            for place, atom in enumerate(self._equations[at].invars)
            if (self._kind(at), place) in kinds
            and (root := self._outside(atom, members)) is not None
        }

    def _come_of_loops(self, roots: Iterable[Any]) -> bool:
        """Whether all of them were made turn by turn in other loops over data."""
        return all(
            any(self._maker.get(root) in members for members in self._over_data) for root in roots
        )

    def _computes(self, forward: list[int], around: int) -> bool:
        """Whether something is computed in each turn, of more than keys."""
        counts = Counter(
            self._kind(at) for at in forward if self._data[at] and not self._size(at).moves
        )
        return any(count >= LEAST * around for count in counts.values())

    def _heavy(self, members: Iterable[int]) -> list[int]:
        """What does much for each element that comes out: matrix products, programs."""
        return [
            at
            for at in members
            if self._equations[at].primitive.name in _PRODUCTS
            or self._size(at).work > _MUCH * self._equations[at].outvars[0].aval.size
        ]

    def _chain(self, forward: list[int], members: list[int]) -> list[int]:
        """What needs what the same made in the turn before, other than to add to it.

        Nothing, if that is little of what a turn does: then the turns can do without each other.
        """
        numbers: dict[Hashable, int] = {}
        behind: dict[int, int] = {}
        counted = set(forward)
        found = []
        for at in members:
            equation = self._equations[at]
            own = 1 << numbers.setdefault((self._kind(at), *self._shared(equation)), len(numbers))
            before, adds = 0, False
            for atom in equation.invars:
                maker = None if isinstance(atom, jex_core.Literal) else self._maker.get(atom)
                if maker is not None:
                    before |= behind.get(maker, 0)
                    adds = adds or self._kind(maker) == self._kind(at)
            behind[at] = before | own
            adds = adds and equation.primitive.name in _GATHERS
            if at in counted and before & own and not adds:
                found.append(at)
        total = sum(self._size(at).work for at in forward)
        much = 10 * sum(self._size(at).work for at in found) > total
        return found if much or self._heavy(found) else []

    def _shared(self, equation: Any) -> tuple[Any, ...]:
        """What an equation reads of what comes into the program."""
        roots = [
            self._root(atom) for atom in equation.invars if not isinstance(atom, jex_core.Literal)
        ]
        return tuple(root for root in roots if root not in self._maker)

    def _place(self, group: _Group, members: list[int]) -> Place:
        """The first of the lines that do most: of matrix products, where there are any."""
        depth = group.loop.depth
        by_line: dict[Place, tuple[float, float]] = {}
        for at in members:
            place, size = self._stacks[at].places[depth], self._size(at)
            products, work = by_line.get(place, (0.0, 0.0))
            by_line[place] = products + size.products, work + size.work
        which = 0 if any(products for products, _ in by_line.values()) else 1
        most = max(sums[which] for sums in by_line.values())
        return min(
            (place for place, sums in by_line.items() if 2 * sums[which] >= most),
            key=lambda place: place.line,
        )


def _stacks_of(jaxpr: Any, stacks: Stacks) -> Iterator[Stack]:
    """The stack of each equation, also of what was written out of an inner program.

    So are the equations of `jax.checkpoint`: those of the forward pass stand in the program, those
    that the backward pass repeats in one of their own. The stack of both begins anew.
    """
    around: dict[Any, list[Any]] = {}
    for equation in jaxpr.eqns:
        for inner in _inner(equation):
            starts = {stacks.of(each).start for each in inner.eqns} - {
                None,
                stacks.of(equation).start,
            }
            for start in starts:
                calls = around.setdefault(start, [])
                if all(traceback_of(call) != traceback_of(equation) for call in calls):
                    calls.append(equation)
    for equation in jaxpr.eqns:
        stack = stacks.of(equation)
        calls = around.get(stack.start, [])
        if not calls:
            yield stack
        elif len(calls) == 1:
            yield stacks.of(equation, calls[0])
        else:
            yield stack._replace(loops=())  # Nobody knows from which call.


def _is_of_flat(equation: Any) -> bool:
    """Whether a vector is given more axes."""
    if equation.primitive.name != "reshape":
        return False
    return len(equation.invars[0].aval.shape) == 1 < len(equation.outvars[0].aval.shape)


def _is_count(atom: Any) -> bool:
    """Whether something is neither of floats nor a key."""
    return not _is_float(atom) and not _is_key(atom)
