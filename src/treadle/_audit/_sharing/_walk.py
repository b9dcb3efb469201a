"""A walk through a traced program that follows the axes of data, and what is drawn.

What each primitive does to them stands in `_of_draws`, `_of_moves`, `_of_products`, `_of_loops` and
`_of_devices`; here is how an equation finds its rule, and what one without a rule does.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.extend import core as jex_core

from ..._jaxpr import inner_jaxprs
from .._keys._lineage import Path, Stop, equations_of
from .._private import is_array_of_keys, is_backward, is_recomputation
from ._spread import (
    DIFFERS,
    DRAWS_DIFFER,
    Draw,
    Spread,
    beside,
    constant,
    differing,
    elementwise,
    moved,
    spread_of,
)
from ._together import Together


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


_INNER = ("cholesky", "triangular_solve", "qr", "householder_product", "lu", "eigh", "eig", "svd")
_INNER_TOO = ("geqrf", "geqp3", "ormqr", "schur", "hessenberg", "tridiagonal", "fft")
_LAST_TWO = frozenset((*_INNER, *_INNER_TOO, "tridiagonal_solve", "cholesky_update"))
"""What mixes elements along the last two dimensions, whatever the shape of its result."""


Rule = Callable[["Walk", Any, list[Spread], Path], list[Spread]]
"""From what goes into an equation to what comes out; `path` ends with the equation."""


class Walk:
    """What is known of the axes of data, and how it is found.

    Args:
        rules: What each primitive does, by its name.
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

    def __init__(self, rules: Mapping[str, Rule], sizes: dict[int, int]):
        self._rules = rules
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
        self.sizes = sizes
        self._sources: dict[tuple[int, ...], Source] = {}

    def program(self, program: Any, inputs: Sequence[Spread], path: Path) -> list[Spread]:
        """What comes out of a program, or of one inside of another."""
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

    def elementwise(self, values: Sequence[Spread], shape: Sequence[int], path: Path) -> Spread:
        """What meets element by element; of draws and data that is noted."""

        def note(draw: Draw, data: Spread) -> None:
            if not data.projected and not is_again(path):
                self.meetings.append(Meeting(draw, data, path))

        self.join([value for value in values if len(value.shape) == len(shape)])
        return elementwise(values, shape, note)

    def join(self, values: Sequence[Spread]) -> None:
        """Axes that lie along one dimension of several values are one."""
        with_axes = [value for value in values if value.is_data]
        if len(with_axes) > 1:
            for groups in zip(*(value.axes for value in with_axes), strict=True):
                self.together.join(*groups)

    def pair(self, one: frozenset[int], other: frozenset[int]) -> None:
        """`logits[arange(n), labels]`: an axis that is chosen from for each of another."""
        if {self.sizes[axis] for axis in one} == {self.sizes[axis] for axis in other}:
            self.together.join(one, other)

    def runs_over(self, value: Spread, at: int, known: set[int]) -> None:
        """Notes that a loop runs over an axis, if it is the whole of it."""
        known |= {axis for axis in value.axes[at] if self.sizes[axis] == value.shape[at]}

    def source(self, path: Path) -> Source:
        """The one place where it is drawn, however often a loop is walked through."""
        key = tuple(id(stop.equation) for stop in path)
        return self._sources.setdefault(key, Source(path))

    def _equation(self, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
        name = equation.primitive.name
        rule = self._rules.get(name)
        if rule is not None:
            return rule(self, equation, values, path)
        inner = [each for value in equation.params.values() for each in inner_jaxprs(value)]
        if inner:
            return self._call(equation, inner, values, path)
        shapes = [getattr(out.aval, "shape", ()) for out in equation.outvars]
        if name in _LAST_TWO or not _is_elementwise(values, shapes):
            return [by_leading(values, shape) for shape in shapes]
        if len(shapes) == len(values) > 1:
            return list(values)  # A barrier.
        return [self.elementwise(values, shape, path) for shape in shapes]

    def _call(
        self, equation: Any, inner: list[Any], values: list[Spread], path: Path
    ) -> list[Spread]:
        """A call of one program, whatever its name."""
        jaxpr = inner[0]
        fits = len(inner) == 1 and len(jaxpr.invars) == len(values)
        if not fits or len(jaxpr.outvars) != len(equation.outvars):
            return [by_leading(values, out.aval.shape) for out in equation.outvars]
        closed = next(
            (p for p in equation.params.values() if isinstance(p, jex_core.ClosedJaxpr)), jaxpr
        )
        return self.program(closed, values, path)


def is_again(path: Path) -> bool:
    """Whether it is computed for a derivative."""
    return any(is_backward(each) or is_recomputation(each) for each in equations_of(path))


def in_a_loop(path: Path) -> bool:
    """Whether some loop encloses it."""
    return any(stop.equation.primitive.name in ("scan", "while") for stop in path)


def by_leading(values: Sequence[Spread], shape: Sequence[int], most: int | None = None) -> Spread:
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
