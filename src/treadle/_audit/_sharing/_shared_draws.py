"""Draws that every example of a batch has to share, and which axes are those of a batch."""

import collections
import os
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..._jaxpr import primitives
from .._audited import Audited
from .._keys._lineage import Path, equations_of
from .._leaf import Argument, Leaf, leaves_of
from .._private import is_array_of_keys, is_module
from .._source import path_frames
from ._batch_axes import BatchAxes
from ._spread import DATA, PARAMETERS, Spread, spread_of
from ._walk import Meeting


class SharedDraw(NamedTuple):
    """A draw that is the same for every example, or for every member of an ensemble.

    Attributes:
        path: Where it is drawn: the equation behind all that enclose it.
        meeting: Where it meets the data.
        shape: The shape of the data there.
        axis: Along which of its dimensions the draw is the same.
        mesh: Or the axis of the mesh: each device draws the same.
        of_members: Whether that is an axis along which models lie, not examples.
    """

    path: Path
    meeting: Path
    shape: tuple[int, ...]
    axis: int | None
    mesh: str | None
    of_members: bool = False


_DRAWS = frozenset(
    {"random_bits", "random_gamma", "threefry2x32", "rng_bit_generator", "rng_uniform"}
)


def shared_draws(audited: Audited) -> list[SharedDraw]:
    """Draws of more than one number that meet batch data and are the same for every example."""
    if not _DRAWS.intersection(primitives(audited.program.jaxpr.jaxpr)):
        return []
    arguments = audited.program.inputs
    parameters = _known_parameters(audited)
    while True:
        table = Table(audited, parameters)
        seen = BatchAxes(audited.program.jaxpr, table.given, table.sizes)
        more = {
            id(argument)
            for argument in arguments
            if audited.program.kind not in ("step", "eval")
            and any(leaf.index not in parameters for leaf in argument.leaves)
            and _acts_as_parameters(argument, table, seen)
        }
        if not more:
            break
        parameters |= {leaf.index for each in arguments if id(each) in more for leaf in each.leaves}
    batch = _batch_axes(audited, table, seen)
    # The same in every step, and told by another rule.
    constant = {_identity(each.use.path) for each in audited.lineage.constants}
    found = []
    for meeting in seen.meetings:
        shared = _shared(meeting, seen, batch)
        if shared is not None:
            found.append(shared)
    found += _shared_by_members(audited, parameters)
    found = [each for each in found if _identity(each.path) not in constant]
    return [each for each in found if not _is_intended(each.path)]


def _identity(path: Path) -> tuple[int, ...]:
    return tuple(id(stop.equation) for stop in path)


# -- what goes in ---------------------------------------------------------------------------------


class Axis(NamedTuple):
    """A dimension of an array that goes in."""

    leaf: Leaf
    at: int


class Table:
    """The axes of everything that may be data.

    Attributes:
        axes: The axes, by their numbers.
        given: What is known of each array that goes in.
        sizes: Their lengths, by number.
        leaves: The arrays, each with the numbers of its axes.
    """

    def __init__(self, audited: Audited, parameters: set[int]):
        self.axes: list[Axis] = []
        self.leaves: list[tuple[Leaf, list[int]]] = []
        self.given: list[Spread] = []
        self.sizes: dict[int, int] = {}
        for leaf in audited.program.leaves:
            self.given.append(self._spread(leaf, leaf.index in parameters))

    def _spread(self, leaf: Leaf, is_parameter: bool) -> Spread:
        shape = leaf.aval.shape
        if _is_key(leaf):
            return spread_of(shape)
        if is_parameter:
            return spread_of(shape, depends=PARAMETERS)
        numbers = []
        for at, size in enumerate(shape):
            numbers.append(len(self.axes))
            self.sizes[len(self.axes)] = size
            self.axes.append(Axis(leaf, at))
        if numbers:
            self.leaves.append((leaf, numbers))
        own = tuple(frozenset([each]) for each in numbers)
        return spread_of(shape, depends=DATA)._replace(axes=own)


def _is_key(leaf: Leaf) -> bool:
    if is_array_of_keys(leaf.aval):
        return True
    shape = leaf.aval.shape
    return str(leaf.aval.dtype) == "uint32" and bool(shape) and shape[-1] in (2, 4)


def _known_parameters(audited: Audited) -> set[int]:
    """What is updated, and models."""
    program = audited.program
    if program.kind in ("step", "eval"):
        data = ("batch", "weights")
        return {
            leaf.index
            for argument in program.inputs
            if argument.name not in data
            for leaf in argument.leaves
        }
    # What only moves on, such as the state of a simulation, holds examples too.
    states = audited.states if program.trains else []
    found = {leaf.index for state in states for leaf in leaves_of(state.given)}
    for argument in program.inputs:
        for node in jax.tree.leaves(argument.tree, is_leaf=is_module):
            if is_module(node):
                found |= {leaf.index for leaf in leaves_of(node)}
        if argument.name == "self":
            found |= {leaf.index for leaf in argument.leaves}
    return found


def _acts_as_parameters(argument: Argument, table: Table, seen: BatchAxes) -> bool:
    """Whether other data is multiplied with it as with a matrix, or convolved with it."""
    own = {leaf.index for leaf in argument.leaves}

    def is_own(axis: int) -> bool:
        leaf = table.axes[axis].leaf
        return leaf.index in own and jnp.issubdtype(leaf.aval.dtype, jnp.inexact)

    if any(is_own(axis) for axis in seen.kernels):
        return True
    for one, other in seen.pairs:
        for a, b in ((one, other), (other, one)):
            leads, follows = table.axes[a].at == 0, table.axes[b].at > 0
            if is_own(a) and not is_own(b) and leads and follows:
                return True
    return False


# -- which axes are those of a batch --------------------------------------------------------------


def _batch_axes(audited: Audited, table: Table, seen: BatchAxes) -> set[int]:
    """The axes along which examples lie, each by the number that stands for all it is one with."""
    together = seen.together
    if audited.program.kind in ("step", "eval"):
        return {together(numbers[0]) for _, numbers in table.leaves}
    runs = {together(axis) for axis in seen.scanned}
    devices = {together(axis) for axis in seen.devices}
    never = {together(axis) for axis in seen.mixed | seen.contracted | seen.mapped}
    if not audited.program.trains:
        # Positions that look at each other. (In a contrastive loss examples do.)
        never |= {together(a) for a, b in seen.crossed if together(a) == together(b)}
    rows = [[together(axis) for axis in numbers] for _, numbers in table.leaves]
    first = collections.Counter(row[0] for row in rows)
    # The mean of each feature is not one of them.
    labels = collections.Counter(
        row[0]
        for (leaf, _), row in zip(table.leaves, rows, strict=True)
        if len(row) > 1 or leaf.aval.dtype.kind in "iub"
    )
    holds = collections.Counter(axis for row in rows for axis in set(row))
    chosen: set[int] = set()
    passed: set[int] = set()
    for row in rows:
        at = _choice(row, runs, never, first, labels, holds)
        examples = set() if at is None else {row[at]}
        if row[0] in devices:
            # Each device has a batch of its own.
            examples |= set(row[1:2]) - never
        chosen |= examples
        passed.update(set(row[1:]) - examples)
    return chosen - passed


def _choice(
    row: list[int],
    runs: set[int],
    never: set[int],
    first: collections.Counter[int],
    labels: collections.Counter[int],
    holds: collections.Counter[int],
) -> int | None:
    """Which dimension of an array runs over examples: the first, if nothing speaks against it."""
    others = [at for at, axis in enumerate(row) if at and axis not in never | runs]
    if row[0] in runs:
        # Time steps, or batches, of which each holds examples: those of several arrays.
        shared = [at for at in others if first[row[at]] or holds[row[at]] > 1]
        return max(shared, key=lambda at: (first[row[at]], -at), default=None)
    if len(row) > 2 and 1 in others and labels[row[1]] > labels[row[0]]:
        return 1  # Time comes first, and the labels say how many examples there are.
    return None if row[0] in never else 0


def _shared(meeting: Meeting, seen: BatchAxes, batch: set[int]) -> SharedDraw | None:
    """The meeting, if the draw is the same along an axis of the batch, and along all of them."""
    draw, data = meeting.draw, meeting.data
    along = [
        at
        for at, axes in enumerate(data.axes)
        if any(seen.together(axis) in batch for axis in axes)
    ]
    path = draw.source.path
    for name in sorted(data.over - draw.over):
        spread = seen.meshes.get(name, set())
        if any(seen.together(axis) in batch for axis in spread):
            return SharedDraw(path, meeting.path, data.shape, None, name)
    same = [at for at in along if not draw.along[at] and data.shape[at] > 1]
    if not same or any(draw.along[at] for at in along):
        return None
    return SharedDraw(path, meeting.path, data.shape, same[0], None)


# -- ensembles ------------------------------------------------------------------------------------


def _shared_by_members(audited: Audited, parameters: set[int]) -> list[SharedDraw]:
    """Draws that meet the activations of all members of an ensemble, and are the same for each.

    An ensemble has an axis with which all its parameters begin, and along which nothing is summed,
    but products are made one by one.
    """
    arrays = [
        leaf
        for leaf in audited.program.leaves
        if leaf.index in parameters and jnp.issubdtype(leaf.aval.dtype, jnp.inexact)
    ]
    lengths = {leaf.aval.shape[:1] for leaf in arrays}
    if len(lengths) != 1 or min(lengths) <= (1,):
        return []
    table = Table(audited, parameters)
    numbers = []
    for leaf in arrays:
        numbers.append(len(table.sizes))
        table.sizes[numbers[-1]] = leaf.aval.shape[0]
        own = table.given[leaf.index]
        axes = (frozenset([numbers[-1]]), *own.axes[1:])
        table.given[leaf.index] = own._replace(axes=axes)
    seen = BatchAxes(audited.program.jaxpr, table.given, table.sizes)
    members = {seen.together(axis) for axis in numbers}
    summed = {axis for pair in seen.pairs for axis in pair} | seen.contracted | seen.kernels
    never = summed | seen.mixed | seen.scanned | seen.mapped
    if len(members) != 1 or members & {seen.together(axis) for axis in never}:
        return []
    if not members <= {seen.together(axis) for axis in seen.aligned}:
        return []
    meetings = [each for each in seen.meetings if each.data.depends & DATA]
    found = [_shared(meeting, seen, members) for meeting in meetings]
    return [each._replace(of_members=True) for each in found if each is not None]


# -- what is meant --------------------------------------------------------------------------------

_MAKES = re.compile(r"(^|_)init(_|$|iali[sz])|^__init__$")


def _is_intended(path: Path) -> bool:
    """Whether it is drawn to be shared: weights, or a mask that a library's attention shares."""
    for frame in path_frames(equations_of(path)):
        file = os.path.basename(frame.code.co_filename)
        if frame.library == "flax" and file == "attention.py":
            return True
        if file == "initializers.py":
            return True
        if frame.library != "jax" and _MAKES.search(frame.code.co_name):
            return True
    return False
