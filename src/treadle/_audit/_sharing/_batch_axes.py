"""Follows the axes of data, and what is drawn, by abstract interpretation of a traced program.

Every dimension of every argument that may be data has a number. It is followed through the program
to where a draw meets data element by element; each such meeting is noted, with the axes that lie
along the data there. Which of them are axes of a batch is decided later (see `_shared_draws`), also
by what else was seen to happen to them.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from jax.extend import core as jex_core

from ..._jaxpr import inner_jaxprs
from .._keys._lineage import Path, Stop, equations_of
from .._private import is_array_of_keys, is_backward, is_recomputation, key_words
from ._spread import (
    DATA,
    DIFFERS,
    DRAWS_DIFFER,
    NONE,
    PARAMETERS,
    Draw,
    Groups,
    Spread,
    beside,
    constant,
    differing,
    either,
    elementwise,
    merged,
    moved,
    random,
    regrouped,
    spread_of,
    with_new,
    without,
)


@dataclasses.dataclass(eq=False)
class Source:
    """Where something is drawn.

    Attributes:
        path: The equation behind all that enclose it.
    """

    path: Path


class Meeting(NamedTuple):
    """A draw meets data element by element.

    Attributes:
        draw: The draw.
        data: The data.
        path: Where.
    """

    draw: Draw
    data: Spread
    path: Path


class Together:
    """Axes that meet, and hence are one: which number stands for all of them."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def __call__(self, axis: int) -> int:
        """The number for all that an axis is one with."""
        while axis in self._parents:
            axis = self._parents[axis]
        return axis

    def single(self, axes: Iterable[int]) -> int | None:
        """The number for some axes, if they are one."""
        found = {self(axis) for axis in axes}
        return found.pop() if len(found) == 1 else None

    def join(self, *groups: Iterable[int]) -> None:
        """Makes axes one, where each of the groups is."""
        found = [each for each in map(self.single, groups) if each is not None]
        for other in found[1:]:
            one, other = self(found[0]), self(other)
            if one != other:
                self._parents[max(one, other)] = min(one, other)


_MOST_TURNS = 8
"""Turns after which a loop is taken as settled."""

_INNER = ("cholesky", "triangular_solve", "qr", "householder_product", "lu", "eigh", "eig", "svd")
_INNER_TOO = ("geqrf", "geqp3", "ormqr", "schur", "hessenberg", "tridiagonal", "fft")
_LAST_TWO = frozenset((*_INNER, *_INNER_TOO, "tridiagonal_solve", "cholesky_update"))
"""What mixes elements along the last two dimensions, whatever the shape of its result."""


class BatchAxes:
    """Runs through a program.

    Args:
        closed: The program.
        given: What is known of each array that goes in.
        sizes: The length of each axis of data.

    Attributes:
        meetings: Draws that meet data.
        together: Which axes are one.
        scanned: Axes over which a loop that carries something runs.
        mapped: Those over which one that carries nothing does.
        mixed: Axes along which neighbours are mixed: by a window, a sum so far.
        contracted: Axes that are summed against parameters.
        pairs: Axes that are summed against one another.
        aligned: Axes along which there is a product of its own for each place.
        crossed: Axes of which each place meets each of the other.
        kernels: Axes of what data was convolved with.
        meshes: For each axis of the mesh the axes of data that are spread over it.
        devices: Those of which each device has one place, without that dimension.
    """

    def __init__(self, closed: Any, given: Sequence[Spread], sizes: dict[int, int]):
        self.meetings: list[Meeting] = []
        self.together = Together()
        self.scanned: set[int] = set()
        self.mapped: set[int] = set()
        self.mixed: set[int] = set()
        self.contracted: set[int] = set()
        self.pairs: set[tuple[int, int]] = set()
        self.aligned: set[int] = set()
        self.crossed: set[tuple[int, int]] = set()
        self.kernels: set[int] = set()
        self.meshes: dict[str, set[int]] = {}
        self.devices: set[int] = set()
        self._sizes = sizes
        self._sources: dict[tuple[int, ...], Source] = {}
        self._closed(closed, given, ())

    # -- programs -----------------------------------------------------------------------------

    def _closed(self, program: Any, inputs: Sequence[Spread], path: Path) -> list[Spread]:
        jaxpr = getattr(program, "jaxpr", program)
        known: dict[Any, Spread] = dict(zip(jaxpr.invars, inputs, strict=True))
        consts = getattr(program, "consts", ())
        for var, value in zip(jaxpr.constvars, consts, strict=False):
            known[var] = constant(value, getattr(var.aval, "shape", ()))
        # With what they were made of, so that no number of an object is given away twice.
        copies: dict[Any, tuple[Spread, list[Spread]]] = {}

        def read(atom: Any) -> Spread:
            if isinstance(atom, jex_core.Literal):
                return constant(atom.val, getattr(atom.aval, "shape", ()))
            return known.get(atom) or spread_of(getattr(atom.aval, "shape", ()))

        for equation in jaxpr.eqns:
            place = (*path, Stop(equation, jaxpr, 0))
            values = [read(atom) for atom in equation.invars]
            same = _as_key(equation, values)
            if same in copies:
                known[equation.outvars[0]], _ = copies[same]
                continue
            outs = self._equation(equation, values, place)
            known.update(zip(equation.outvars, outs, strict=True))
            if same is not None:
                copies[same] = outs[0], values
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        name = equation.primitive.name
        rule = _RULES.get(name)
        if rule is not None:
            return rule(self, equation, values, path)
        inner = [each for value in equation.params.values() for each in inner_jaxprs(value)]
        if inner:
            return self._call(equation, inner, values, path)
        shapes = [getattr(out.aval, "shape", ()) for out in equation.outvars]
        if name in _LAST_TWO or not _is_elementwise(values, shapes):
            return [_by_leading(values, shape) for shape in shapes]
        if len(shapes) == len(values) > 1:
            return list(values)  # A barrier.
        return [self._elementwise(values, shape, path) for shape in shapes]

    def _elementwise(self, values: Sequence[Spread], shape: Sequence[int], path: Path) -> Spread:
        def note(draw: Draw, data: Spread) -> None:
            if not data.projected and not _is_again(path):
                self.meetings.append(Meeting(draw, data, path))

        self._join([value for value in values if len(value.shape) == len(shape)])
        return elementwise(values, shape, note)

    def _join(self, values: Sequence[Spread]) -> None:
        """Axes that lie along one dimension of several values are one."""
        with_axes = [value for value in values if value.is_data]
        if len(with_axes) > 1:
            for groups in zip(*(value.axes for value in with_axes), strict=True):
                self.together.join(*groups)

    def _call(
        self, equation: Any, inner: list[Any], values: list[Spread], path: Path
    ) -> list[Spread]:
        """A call of one program, whatever its name."""
        jaxpr = inner[0]
        fits = len(inner) == 1 and len(jaxpr.invars) == len(values)
        if not fits or len(jaxpr.outvars) != len(equation.outvars):
            return [_by_leading(values, out.aval.shape) for out in equation.outvars]
        closed = next(
            (p for p in equation.params.values() if isinstance(p, jex_core.ClosedJaxpr)), jaxpr
        )
        return self._closed(closed, values, path)

    # -- draws and keys -----------------------------------------------------------------------

    def _source(self, path: Path) -> Source:
        key = tuple(id(stop.equation) for stop in path)
        return self._sources.setdefault(key, Source(path))

    def _bits(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        shape = equation.outvars[0].aval.shape
        keys = values[0]
        along = [level > 0 for level in keys.varies] + [True] * (len(shape) - len(keys.shape))
        return [random(self._source(path), along, shape, keys.over)]

    def _gamma(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        keys, alpha = values
        (drawn,) = self._bits(equation, [keys], path)
        return [self._elementwise([drawn, alpha], drawn.shape, path)]

    def _counted(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        """Bits from the raw words of keys and counts, or from a generator's state."""
        found = []
        for out in equation.outvars:
            drawn = random(self._source(path), [True] * len(out.aval.shape), out.aval.shape, NONE)
            found.append(drawn._replace(over=_over(values)))
        return found

    def _split(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        return [
            _keys(
                values,
                [*values[0].varies, *([DIFFERS] * len(equation.params["shape"]))],
                equation.outvars[0].aval.shape,
            )
        ]

    def _wrap(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        shape = equation.outvars[0].aval.shape
        return [_keys(values, values[0].varies[: len(shape)], shape)]

    def _unwrap(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        shape = equation.outvars[0].aval.shape
        words = len(key_words(equation.invars[0].aval))
        return [_keys(values, [*values[0].varies, *([DIFFERS] * words)], shape)]

    def _same_keys(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        """Seeds, folds: a key for each element of what it is made from."""
        shape = equation.outvars[0].aval.shape
        levels = [
            max((v.varies[at] for v in values if len(v.shape) == len(shape)), default=0)
            for at in range(len(shape))
        ]
        return [_keys(values, levels, shape)]

    # -- moving -------------------------------------------------------------------------------

    def _moves(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        """Dimensions change places, vanish, appear."""
        shape = equation.outvars[0].aval.shape
        if equation.primitive.name == "squeeze" and values[0].over:
            # How `pmap` hands each device its part.
            for at in equation.params["dimensions"]:
                self.devices |= values[0].axes[at]
        return [moved(values[0], _groups(equation, values[0], shape), shape)]

    def _window(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        """A part of an array from places that are computed."""
        value, shape = values[0], equation.outvars[0].aval.shape
        if any(_is_loop(stop.equation) for stop in path):
            for at, size in enumerate(shape):
                if size == 1 < value.shape[at]:
                    self._runs_over(value, at, self.scanned)
        return [moved(value, _same(shape), shape)]

    def _updated(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        """A part of an array is put into another."""
        value, update = values[:2]
        part = moved(update, _same(value.shape), value.shape)
        return [beside([value, part])]

    def _scattered(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        value, _, updates = values
        leading = _by_leading([value, updates], value.shape, most=len(value.shape))
        kept = value.draws if value.is_random and not updates.depends else ()
        found = merged([value, leading], kept)
        return [found._replace(varies=spread_of(value.shape).varies)]

    def _concatenated(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        shape = equation.outvars[0].aval.shape
        at = equation.params["dimension"]
        self._join(values)
        found = beside([moved(value, _same(shape), shape) for value in values])
        axes = NONE.union(*(value.axes[at] for value in values))
        found = found._replace(axes=(*found.axes[:at], axes, *found.axes[at + 1 :]))
        if all(value is values[0] for value in values) and not values[0].varies[at]:
            return [found]
        return [differing(found, at, drawn=bool(found.draws))]

    def _stacked(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        at, size = equation.params["axis"], len(values)
        self._join(values)
        found = with_new(beside(values), at, size)
        if all(value is values[0] for value in values):
            return [found]
        return [differing(found, at, drawn=bool(found.draws))]

    def _parts(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        """`split` and `unstack`."""
        value = values[0]
        found = []
        for out in equation.outvars:
            shape = out.aval.shape
            if len(shape) < len(value.shape):
                found.append(without(value, [equation.params["axis"]]))
            else:
                found.append(moved(value, _same(shape), shape))
        return found

    def _sorted(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        return [beside(values)] * len(equation.outvars)

    def _top(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        shape = equation.outvars[0].aval.shape
        return [moved(values[0], _same(shape), shape)] * len(equation.outvars)

    def _reduced(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        params = equation.params
        axes = params["axes"] if "axes" in params else params["dimensions"]
        outs = equation.outvars
        return [without(value, axes) for value in values[: len(outs)]]

    def _iota(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        shape = equation.outvars[0].aval.shape
        at = equation.params["dimension"]
        return [spread_of(shape, [DIFFERS if each == at else 0 for each in range(len(shape))])]

    def _so_far(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        self.mixed |= values[0].axes[equation.params["axis"]]
        return [values[0]]

    def _windows(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        """Pooling."""
        value, shape = values[0], equation.outvars[0].aval.shape
        for at, size in enumerate(equation.params.get("window_dimensions", ())):
            if size > 1:
                self.mixed |= value.axes[at]
        return [moved(value, _same(shape), shape)] * len(equation.outvars)

    def _selected(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        _, first, *others = values
        if all(other is first for other in others):
            return [first]  # What two branches captured.
        return [self._elementwise(values, first.shape, path)]

    # -- products and indices -----------------------------------------------------------------

    def _dot(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        (left_sum, right_sum), (left_batch, right_batch) = (
            [[int(at) for at in side] for side in sides]
            for sides in equation.params["dimension_numbers"]
        )
        left, right = values[:2]
        for a, b in zip(left_sum, right_sum, strict=True):
            self._summed(left, a, right, b, path)
        for a, b in zip(left_batch, right_batch, strict=True):
            self.together.join(left.axes[a], right.axes[b])
            if left.axes[a] and right.axes[b]:
                self.aligned |= left.axes[a] | right.axes[b]
        left_free = _free(left, left_sum, left_batch)
        right_free = _free(right, right_sum, right_batch)
        if left.is_data and right.is_data:
            self.crossed |= {
                (one, other)
                for a in left_free
                for b in right_free
                for one in left.axes[a]
                for other in right.axes[b]
            }
        shape = equation.outvars[0].aval.shape
        batch = [[at] for at in left_batch], [[at] for at in right_batch]
        of_left: Groups = [*batch[0], *([at] for at in left_free), *([] for _ in right_free)]
        of_right: Groups = [*batch[1], *([] for _ in left_free), *([at] for at in right_free)]
        found = beside([moved(left, of_left, shape), moved(right, of_right, shape)])
        for drawn, summed, other, free, first in (
            (left, left_sum, right, right_free, len(shape) - len(right_free)),
            (right, right_sum, left, left_free, len(left_batch)),
        ):
            found = _correlated(found, drawn, summed, other, free, first)
        drawn = _is_projection(left, right) or _is_projection(right, left)
        parameters = any(_is_parameters(value) for value in (left, right))
        return [found._replace(projected=drawn or (found.projected and not parameters))]

    def _summed(self, left: Spread, a: int, right: Spread, b: int, path: Path) -> None:
        for axes, other in ((left.axes[a], right), (right.axes[b], left)):
            if _is_parameters(other):
                self.contracted |= axes
        if left.axes[a] and right.axes[b] and not _is_again(path):
            self.pairs |= {(one, other) for one in left.axes[a] for other in right.axes[b]}

    def _convolved(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        numbers = equation.params["dimension_numbers"]
        value, kernel = values
        batch, features, *spatial = map(int, numbers.lhs_spec)
        if not _is_again(path):
            for axes in kernel.axes:
                self.kernels |= axes
            self.contracted |= value.axes[features]
            for at, of_kernel in zip(spatial, numbers.rhs_spec[2:], strict=True):
                if kernel.shape[of_kernel] > 1:
                    self.mixed |= value.axes[at]
        shape = equation.outvars[0].aval.shape
        groups: list[list[int]] = [[] for _ in shape]
        groups[numbers.out_spec[0]] = [batch]
        data = moved(value, groups, shape)._replace(draws=(), projected=False)
        own = spread_of(shape, depends=value.depends | kernel.depends)
        return [merged([data, own], ())]

    def _gathered(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        numbers = equation.params["dimension_numbers"]
        value, indices = values
        shape = equation.outvars[0].aval.shape
        paired = dict(
            zip(numbers.start_indices_batching_dims, numbers.operand_batching_dims, strict=True)
        )
        gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        kept = [at for at in range(len(value.shape)) if at not in gone]
        groups: list[list[int]] = [[] for _ in shape]
        places = [at for at in range(len(shape)) if at not in numbers.offset_dims]
        of_indices: list[list[int]] = [[] for _ in shape]
        for at, out in enumerate(places):
            of_indices[out] = [at]
            groups[out] = [int(paired[at])] if at in paired else []
        for at, out in zip(kept, numbers.offset_dims, strict=True):
            groups[out] = [at]
        found = moved(value, groups, shape)
        picked = moved(indices, of_indices, shape)
        collapsed = numbers.collapsed_slice_dims
        taken = [int(at) for at in numbers.start_index_map if at in collapsed]
        if not any(picked.varies) and any(_is_loop(stop.equation) for stop in path):
            for at in taken:
                self._runs_over(value, at, self.scanned)
        self._join([found, picked])
        chosen = NONE.union(*(value.axes[at] for at in taken))
        for at in places:
            self._pair(chosen, picked.axes[at])
        return [_picked(found, picked, value, taken, places)]

    def _pair(self, one: frozenset[int], other: frozenset[int]) -> None:
        """`logits[arange(n), labels]`: an axis that is chosen from for each of another."""
        if {self._sizes[axis] for axis in one} == {self._sizes[axis] for axis in other}:
            self.together.join(one, other)

    # -- loops, branches, devices -------------------------------------------------------------

    def _runs_over(self, value: Spread, at: int, known: set[int]) -> None:
        """Notes that a loop runs over an axis, if it is the whole of it."""
        known |= {axis for axis in value.axes[at] if self._sizes[axis] == value.shape[at]}

    def _scan(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        params = equation.params
        first, carried = params["num_consts"], params["num_carry"]
        stacked = values[first + carried :]
        for value in stacked:
            self._runs_over(value, 0, self.scanned if carried else self.mapped)
        leading = [value.axes[0] for value in stacked if value.axes[0]]
        for each in leading[1:]:
            self._pair(leading[0], each)
        rows = [without(value, [0]) for value in stacked]

        def body(carry: list[Spread]) -> list[Spread]:
            return self._closed(params["jaxpr"], [*values[:first], *carry, *rows], path)

        outs = self._settled(body, values[first : first + carried], path)
        axes = NONE.union(*(value.axes[0] for value in stacked))
        found = list(outs[:carried])
        for value in outs[carried:]:
            whole = differing(with_new(value, 0, params["length"]), 0, drawn=bool(value.draws))
            if value.depends & DATA:
                whole = whole._replace(axes=(axes, *whole.axes[1:]))
            found.append(whole)
        return found

    def _settled(
        self, body: Callable[[list[Spread]], list[Spread]], carry: list[Spread], path: Path
    ) -> list[Spread]:
        """What a loop ends with; only what it does once nothing changes any more is noted."""
        outs: list[Spread] = []
        for _ in range(_MOST_TURNS):
            before = len(self.meetings)
            outs = body(carry)
            new = [either(old, out) for old, out in zip(carry, outs, strict=False)]
            if new == carry:
                break
            del self.meetings[before:]
            carry = new
        return [*carry, *outs[len(carry) :]]

    def _while(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        params = equation.params
        tested, held = params["cond_nconsts"], params["body_nconsts"]
        of_body, carry = values[tested : tested + held], values[tested + held :]

        def body(carry: list[Spread]) -> list[Spread]:
            return self._closed(params["body_jaxpr"], [*of_body, *carry], path)

        return self._settled(body, carry, path)

    def _cond(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        _, *operands = values
        outs = [self._closed(branch, operands, path) for branch in equation.params["branches"]]
        found = outs[0]
        for other in outs[1:]:
            found = [either(a, b) for a, b in zip(found, other, strict=True)]
        return found

    def _sharded(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        params = equation.params
        jaxpr = params["jaxpr"]
        specs = params["in_specs"] if "in_specs" in params else params["in_names"]
        ends = params["out_specs"] if "out_specs" in params else params["out_names"]
        given = []
        for value, spec, var in zip(values, specs, _open(jaxpr).invars, strict=True):
            names = _names(spec)
            for at, each in names.items():
                for name in each:
                    self.meshes.setdefault(name, set()).update(value.axes[at])
            inside = moved(value, _same(var.aval.shape), var.aval.shape)
            axes = tuple(
                value.axes[at] if at in names else inside.axes[at] for at in range(len(value.shape))
            )
            over = inside.over.union(*names.values())
            given.append(inside._replace(axes=axes, over=over))
        outs = self._closed(jaxpr, given, path)
        return [
            self._unsharded(value, _names(spec), out.aval.shape)
            for value, spec, out in zip(outs, ends, equation.outvars, strict=True)
        ]

    def _unsharded(
        self, value: Spread, names: dict[int, tuple[str, ...]], shape: Sequence[int]
    ) -> Spread:
        whole = moved(value, _same(shape), shape)
        axes = list(value.axes)
        for at, each in names.items():
            if value.depends & DATA and not axes[at]:
                axes[at] = NONE.union(*(self.meshes.get(name, ()) for name in each))
            if value.over.intersection(each):
                whole = differing(whole, at, drawn=value.is_random and bool(value.depends))
        return whole._replace(axes=tuple(axes), over=NONE_OVER)

    def _pmapped(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        params = equation.params
        name, size = params["axis_name"], params["global_axis_size"]
        given = []
        for value, at in zip(values, params["in_axes"], strict=True):
            if at is None:
                given.append(value)
                continue
            self.meshes.setdefault(name, set()).update(value.axes[at])
            self.devices |= value.axes[at]
            inside = without(value, [at])
            given.append(inside._replace(over=inside.over | {name}))
        found = []
        outs = self._closed(params["call_jaxpr"], given, path)
        for value, at in zip(outs, params["out_axes"], strict=True):
            whole = value if at is None else with_new(value, at, size)
            if at is not None and value.depends & DATA:
                axes = frozenset(self.meshes.get(name, ()))
                whole = whole._replace(axes=(*whole.axes[:at], axes, *whole.axes[at + 1 :]))
            if at is not None and name in value.over:
                whole = differing(whole, at, drawn=value.is_random and bool(value.depends))
            found.append(whole._replace(over=whole.over - {name}))
        return found

    def _place(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        """Which device it is."""
        name = equation.params["axis_name"]
        names = name if isinstance(name, tuple) else (name,)
        return [spread_of(())._replace(over=frozenset(map(str, names)))]

    def _over_devices(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        """A sum or another reduction over devices, or over an axis that `vmap` named."""
        axes = equation.params["axes"]
        names = frozenset(str(each) for each in axes if not isinstance(each, int))
        places = [each for each in axes if isinstance(each, int)]
        return [
            without(value, places)._replace(over=value.over - names, draws=()) for value in values
        ]


NONE_OVER: frozenset[str] = frozenset()


def _same(shape: Sequence[int]) -> list[list[int]]:
    return [[at] for at in range(len(shape))]


def _over(values: Iterable[Spread]) -> frozenset[str]:
    return NONE_OVER.union(*(value.over for value in values))


def _keys(values: Sequence[Spread], varies: Sequence[int], shape: Sequence[int]) -> Spread:
    """Keys: which of them differ is all that counts."""
    return spread_of(shape, list(varies))._replace(over=_over(values))


_COPIES = frozenset(
    {"broadcast_in_dim", "reshape", "slice", "squeeze", "random_wrap", "random_unwrap", "transpose"}
)


def _as_key(equation: Any, values: Sequence[Spread]) -> Any:
    """What a piece of a key is made of: pieces that are made alike are one value."""
    if equation.primitive.name not in _COPIES:
        return None
    aval = equation.outvars[0].aval
    if not is_array_of_keys(aval) and str(aval.dtype) != "uint32":
        return None
    params = " ".join(f"{name}={value}" for name, value in sorted(equation.params.items()))
    return equation.primitive.name, tuple(id(value) for value in values), params


def _is_again(path: Path) -> bool:
    """Whether it is computed for a derivative."""
    return any(is_backward(each) or is_recomputation(each) for each in equations_of(path))


def _is_loop(equation: Any) -> bool:
    return equation.primitive.name in ("scan", "while")


def _is_elementwise(values: Sequence[Spread], shapes: Sequence[Any]) -> bool:
    """Whether the operands have the shape of the result, up to lengths of one."""
    if len(shapes) != 1:
        return [value.shape for value in values] == [tuple(shape) for shape in shapes]
    return bool(values) and all(_fits(value.shape, shapes[0]) for value in values)


def _fits(shape: Sequence[int], whole: Sequence[int]) -> bool:
    if not shape:
        return True
    if len(shape) != len(whole):
        return False
    return all(size in (1, end) for size, end in zip(shape, whole, strict=True))


def _by_leading(values: Sequence[Spread], shape: Sequence[int], most: int | None = None) -> Spread:
    """Of an operation that nothing is known of: its leading dimensions are those that came in."""
    last = len(shape) - 2 if most is None else most
    groups = [
        [
            [at] if at < min(last, len(v.shape)) and v.shape[at] == size else []
            for at, size in enumerate(shape)
        ]
        for v in values
    ]
    parts = [moved(value, group, shape) for value, group in zip(values, groups, strict=True)]
    found = beside(parts) if parts else spread_of(shape)
    level = DRAWS_DIFFER if found.is_random and found.draws else DIFFERS
    levels = [each if at < last else level for at, each in enumerate(found.varies)]
    found = found._replace(varies=spread_of(shape, levels).varies, projected=False)
    for at in range(max(last, 0), len(shape)):
        found = differing(found, at, drawn=found.is_random and bool(found.draws))
    return found


def _is_parameters(value: Spread) -> bool:
    return bool(value.depends & PARAMETERS) and not value.depends & DATA


def _correlated(
    found: Spread,
    drawn: Spread,
    summed: Sequence[int],
    other: Spread,
    free: Sequence[int],
    first: int,
) -> Spread:
    """The product of draws and a matrix of numbers, as in a normal distribution with a covariance.

    It has no more numbers than were drawn, or they only place many points, as an affine map does.
    """
    many = math.prod(drawn.shape[at] for at in summed if any(d.along[at] for d in drawn.draws))
    if not found.draws or other.depends or math.prod(other.shape[at] for at in free) > many:
        return found
    for at in range(first, first + len(free)):
        found = differing(found, at, drawn=True)
    return found


def _is_projection(value: Spread, matrix: Spread) -> bool:
    """Whether data is multiplied with numbers that were drawn."""
    return value.is_data and bool(matrix.draws) and matrix.is_random


def _free(value: Spread, summed: Sequence[int], batch: Sequence[int]) -> list[int]:
    return [at for at in range(len(value.shape)) if at not in summed and at not in batch]


def _groups(equation: Any, value: Spread, shape: Sequence[int]) -> Groups:
    """Where the dimensions of a result come from."""
    params = equation.params
    match equation.primitive.name:
        case "transpose":
            return [[int(at)] for at in params["permutation"]]
        case "broadcast_in_dim":
            found: list[list[int]] = [[] for _ in shape]
            for at, place in enumerate(params["broadcast_dimensions"]):
                found[int(place)] = [at]
            return found
        case "reshape":
            return regrouped(value.shape, shape)
        case "squeeze":
            gone = {at % len(value.shape) for at in params["dimensions"]}
            return [[at] for at in range(len(value.shape)) if at not in gone]
        case "tile":
            added = len(shape) - len(value.shape)
            return [[at - added] if at >= added else [] for at in range(len(shape))]
    return _same(shape)


def _picked(
    found: Spread, picked: Spread, value: Spread, taken: Sequence[int], places: Sequence[int]
) -> Spread:
    """Elements of an array at indices.

    Args:
        found: What is kept of the array's own dimensions.
        picked: The indices, in the shape of the result.
        value: The array.
        taken: The dimensions that the indices choose from.
        places: The dimensions of the result that run over indices.
    """
    axes = NONE.union(*(value.axes[at] for at in taken))
    own = [draw for draw in value.draws if value.is_random]
    chosen = any(value.varies[at] for at in taken)
    levels = list(found.varies)
    all_axes = list(found.axes)
    for at in places:
        levels[at] = max(levels[at], picked.varies[at] if chosen else 0)
        if picked.varies[at]:
            all_axes[at] = all_axes[at] | axes
        all_axes[at] = all_axes[at] | picked.axes[at]
    draws = []
    for draw, source in zip(found.draws if own else (), own, strict=True):
        many = any(source.along[at] for at in taken)
        along = [
            each or (many and at in places and picked.varies[at] > 0)
            for at, each in enumerate(draw.along)
        ]
        draws.append(draw._replace(along=tuple(along)))
    if not value.depends:
        draws += picked.draws
    return Spread(
        found.shape,
        tuple(levels),
        tuple(all_axes),
        value.depends | picked.depends,
        tuple(draws),
        value.over | picked.over,
        value.projected,
    )


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _names(spec: Any) -> dict[int, tuple[str, ...]]:
    """Which axes of the mesh each dimension is spread over."""
    if hasattr(spec, "items"):  # JAX before 0.7.
        return {at: tuple(map(str, names)) for at, names in spec.items() if names}
    found = {}
    for at, names in enumerate(spec):
        if names:
            each = names if isinstance(names, tuple) else (names,)
            found[at] = tuple(map(str, each))
    return found


_Rule = Callable[[BatchAxes, Any, list[Spread], Path], list[Spread]]

_RULES: dict[str, _Rule] = {
    "random_bits": BatchAxes._bits,
    "random_gamma": BatchAxes._gamma,
    "random_split": BatchAxes._split,
    "random_wrap": BatchAxes._wrap,
    "random_unwrap": BatchAxes._unwrap,
    "random_seed": BatchAxes._same_keys,
    "random_fold_in": BatchAxes._same_keys,
    "random_clone": BatchAxes._same_keys,
    "scan": BatchAxes._scan,
    "while": BatchAxes._while,
    "cond": BatchAxes._cond,
    "shard_map": BatchAxes._sharded,
    "xla_pmap": BatchAxes._pmapped,
    "axis_index": BatchAxes._place,
    "iota": BatchAxes._iota,
    "dot_general": BatchAxes._dot,
    "conv_general_dilated": BatchAxes._convolved,
    "gather": BatchAxes._gathered,
    "dynamic_slice": BatchAxes._window,
    "dynamic_update_slice": BatchAxes._updated,
    "concatenate": BatchAxes._concatenated,
    "stack": BatchAxes._stacked,
    "select_n": BatchAxes._selected,
    "top_k": BatchAxes._top,
    "sort": BatchAxes._sorted,
    **dict.fromkeys(("threefry2x32", "rng_bit_generator", "rng_uniform"), BatchAxes._counted),
    **dict.fromkeys(("split", "unstack"), BatchAxes._parts),
    **dict.fromkeys(
        ("transpose", "broadcast_in_dim", "reshape", "squeeze", "tile", "slice", "pad", "rev"),
        BatchAxes._moves,
    ),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), BatchAxes._so_far),
    **dict.fromkeys(
        ("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"),
        BatchAxes._windows,
    ),
    **dict.fromkeys(
        (
            *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
            *("reduce_xor", "argmax", "argmin", "reduce"),
        ),
        BatchAxes._reduced,
    ),
    **dict.fromkeys(
        (
            *("scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"),
            *("scatter-sub", "scatter_add", "scatter_mul", "scatter_min", "scatter_max"),
        ),
        BatchAxes._scattered,
    ),
    **dict.fromkeys(("psum", "psum_invariant", "pmax", "pmin"), BatchAxes._over_devices),
}
