"""How many floating point operations a traced program asks for, loops times their trips.

Parts of the code that made the program can be marked, and their operations told apart.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from ._jaxpr import inner_jaxprs

# fmt: off
# One operation per element that comes out.
_ELEMENTWISE = frozenset({
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh", "cbrt",
    "ceil", "clamp", "cos", "cosh", "digamma", "div", "erf", "erf_inv", "erfc", "exp", "exp2",
    "expm1", "floor", "integer_pow", "lgamma", "log", "log1p", "logistic", "max", "min", "mul",
    "neg", "nextafter", "pow", "rem", "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square",
    "sub", "tan", "tanh",
})
# One per element that goes in.
_REDUCTIONS = frozenset({
    "argmax", "argmin", "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "reduce_max",
    "reduce_min", "reduce_prod", "reduce_sum",
})
# One per element of each window.
_WINDOWS = frozenset({
    "reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum",
})
# Work that cannot be read off the program: kernels, and factorisations of matrices.
_OPAQUE = frozenset({
    "cholesky", "custom_call", "eig", "eigh", "fft", "ffi_call", "geqrf", "householder_product",
    "lu", "mosaic_gpu_wgmma", "pallas_call", "pure_callback", "io_callback", "ragged_dot_general",
    "schur", "svd", "triangular_solve", "tridiagonal", "tridiagonal_solve",
})
# fmt: on


class Flops(NamedTuple):
    """What a program asks for.

    Attributes:
        products: Operations in matrix products and convolutions, two for each multiplication and
            the addition that goes with it, by the arithmetic asked for: `"bfloat16"`; `"float32"`
            (whatever the device takes for float32 by default), `"float32 highest"`.
        elementwise: One for each element of everything else that is arithmetic on floats.
        notes: What was not counted, or not exactly.
    """

    products: dict[str, float]
    elementwise: float
    notes: tuple[str, ...]

    @property
    def total(self) -> float:
        """All of `products`."""
        return sum(self.products.values(), 0.0)


_NOTHING = Flops({}, 0.0, ())


def _sum(parts: Iterable[Flops]) -> Flops:
    products: dict[str, float] = {}
    elementwise = 0.0
    notes: dict[str, None] = {}
    for part in parts:
        for name, number in part.products.items():
            products[name] = products.get(name, 0.0) + number
        elementwise += part.elementwise
        notes.update(dict.fromkeys(part.notes))
    return Flops(products, elementwise, tuple(notes))


_MARK = "treadle-part-"
MARKS = re.compile(rf"{_MARK}(\d+)")


class _Place(NamedTuple):
    """Where equations stand: in the innermost of the marked parts, run so many times."""

    mark: int | None = None
    times: float = 1.0

    def inside(self, equation: Any) -> "_Place":
        # JAX keeps the names of scopes with each equation, those of an inner program relative to
        # the equation that holds it. Between them may stand names of transformations.
        marks = MARKS.findall(str(equation.source_info.name_stack))
        return self._replace(mark=int(marks[-1])) if marks else self

    def repeated(self, times: float) -> "_Place":
        return self._replace(times=times * self.times)

    def holds(self, flops: Flops) -> list["_Part"]:
        products = {name: self.times * number for name, number in flops.products.items()}
        return [_Part(self.mark, Flops(products, self.times * flops.elementwise, flops.notes))]


class _Part(NamedTuple):
    """The operations of one equation."""

    mark: int | None
    flops: Flops


def _whole(parts: Iterable[_Part]) -> Flops:
    return _sum(part.flops for part in parts)


def _is_float(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _product(equation: Any, multiplications: int) -> Flops:
    """Of `multiplications` of numbers, each with its addition."""
    left, right = (variable.aval.dtype for variable in equation.invars[:2])
    if not (_is_float(left) and _is_float(right)):
        return _NOTHING
    wide = left if left.itemsize >= right.itemsize else right
    # A complex product is four real ones, and two additions besides.
    each = 8.0 if jnp.issubdtype(wide, jnp.complexfloating) else 2.0
    name = _arithmetic(wide, equation.params.get("precision"))
    return Flops({name: each * multiplications}, 0.0, ())


def _arithmetic(dtype: Any, precision: Any) -> str:
    """The name of the arithmetic that was asked for: only float32 has several."""
    if dtype != np.float32 or precision is None:
        return str(dtype)
    highest = max(precision, key=_RANKS.index) if isinstance(precision, tuple) else precision
    if highest == jax.lax.Precision.DEFAULT:
        return str(dtype)
    return f"{dtype} {getattr(highest, 'name', highest)}".lower()


_RANKS = (jax.lax.Precision.DEFAULT, jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST)


def _dot_general(equation: Any) -> Flops:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    depth = math.prod(shape[axis] for axis in contracted)
    return _product(equation, equation.outvars[0].aval.size * depth)


def _convolution(equation: Any) -> Flops:
    """Multiplications with padding, or with the zeros of a dilated input, are none.

    So the gradients of a convolution count exactly as much as the convolution, whatever its stride.
    """
    params = equation.params
    numbers = params["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars[:2])
    out = equation.outvars[0].aval.shape
    batch, features, *places = (out[axis] for axis in numbers.out_spec)
    channels = kernel[numbers.rhs_spec[1]]
    pairs = 1
    for axis, size in enumerate(places):
        pairs *= _pairs(
            size,
            image[numbers.lhs_spec[2 + axis]],
            kernel[numbers.rhs_spec[2 + axis]],
            params["window_strides"][axis],
            int(params["padding"][axis][0]),  # Of NumPy in older JAX.
            params["lhs_dilation"][axis],
            params["rhs_dilation"][axis],
        )
    return _product(equation, batch * features * channels * pairs)


def _pairs(
    places: int, size: int, kernel: int, stride: int, padding: int, dilation: int, spread: int
) -> int:
    """In how many pairs of an output place and a kernel place an element of the input is met."""
    where = np.arange(places)[:, None] * stride + np.arange(kernel) * spread - padding
    met = (where >= 0) & (where <= (size - 1) * dilation) & (where % dilation == 0)
    return int(met.sum())


def _one_for_each(aval: Any, times: int = 1) -> Flops:
    return Flops({}, float(aval.size * times), ()) if _is_float(aval.dtype) else _NOTHING


def _of_primitive(equation: Any) -> Flops | None:
    """What is read off an equation itself; None if what it holds has to be looked at."""
    name = equation.primitive.name
    if name == "dot_general":
        return _dot_general(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name in _OPAQUE:
        return Flops({}, 0.0, (f"`{name}` is not counted",))
    if name in _ELEMENTWISE:
        return _one_for_each(equation.outvars[0].aval)
    if name in _REDUCTIONS:
        return _one_for_each(equation.invars[0].aval)
    if name in _WINDOWS:
        window = math.prod(equation.params["window_dimensions"])
        return _one_for_each(equation.outvars[0].aval, window)
    return None


def _scan(equation: Any, live: Sequence[bool], place: _Place) -> list[_Part]:
    carried = equation.params["num_carry"]
    # What is carried may be needed by the next round.
    needed = [True] * carried + list(live[carried:])
    place = place.repeated(float(equation.params["length"]))
    return _count(equation.params["jaxpr"].jaxpr, place, needed)


def _is_work(flops: Flops) -> bool:
    return bool(flops.products) or flops.elementwise > 0


def _while(equation: Any, live: Sequence[bool], place: _Place) -> list[_Part]:
    bodies = [equation.params[name].jaxpr for name in ("cond_jaxpr", "body_jaxpr")]
    parts = [part for body in bodies for part in _count(body, place)]
    if _is_work(_whole(parts)):
        parts += place.holds(Flops({}, 0.0, ("the body of a `while` loop is counted once",)))
    return parts


def _cond(equation: Any, live: Sequence[bool], place: _Place) -> list[_Part]:
    branches = [_count(branch.jaxpr, place, live) for branch in equation.params["branches"]]
    sums = [_whole(branch) for branch in branches]
    largest = max(range(len(sums)), key=lambda at: (sums[at].total, sums[at].elementwise))
    parts = branches[largest]
    if any(branch[:2] != sums[largest][:2] for branch in sums):
        parts += place.holds(Flops({}, 0.0, ("of a `cond`, the largest branch is counted",)))
    return parts


def _shard_map(equation: Any, live: Sequence[bool], place: _Place) -> list[_Part]:
    """The program of one device, as often as there are shards."""
    mesh = equation.params["mesh"]
    manual = equation.params.get("manual_axes", mesh.axis_names)
    (inner,) = _inner(equation)
    times = float(math.prod(mesh.shape[name] for name in manual))
    return _count(inner, place.repeated(times), live)


def _linear_solve(equation: Any, live: Sequence[bool], place: _Place) -> list[_Part]:
    return _count(equation.params["jaxprs"].solve.jaxpr, place)


_RULES: dict[str, Callable[[Any, Sequence[bool], _Place], list[_Part]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
    "custom_linear_solve": _linear_solve,
}


def _inner(equation: Any) -> list[Any]:
    return [inner for value in equation.params.values() for inner in inner_jaxprs(value)]


def _of_equation(equation: Any, live: Sequence[bool], place: _Place) -> list[_Part]:
    flops = _of_primitive(equation)
    if flops is not None:
        return place.holds(flops)
    if equation.primitive.name in _RULES:
        return _RULES[equation.primitive.name](equation, live, place)
    calls = _inner(equation)
    same = len(calls) == 1 and len(calls[0].outvars) == len(live)
    return [part for call in calls for part in _count(call, place, live if same else None)]


def _count(jaxpr: Any, place: _Place, live: Sequence[bool] | None = None) -> list[_Part]:
    """Of the equations that the outputs named by `live` (all of them) depend on.

    The rest never runs: XLA drops it.
    """
    wanted = [True] * len(jaxpr.outvars) if live is None else live
    needed = {
        variable
        for variable, want in zip(jaxpr.outvars, wanted, strict=True)
        if want and not isinstance(variable, jex_core.Literal)
    }
    parts = []
    for equation in reversed(jaxpr.eqns):
        used = [variable in needed for variable in equation.outvars]
        if any(used) or equation.effects:
            needed.update(v for v in equation.invars if not isinstance(v, jex_core.Literal))
            parts += _of_equation(equation, used, place.inside(equation))
    return parts


def count_flops(program: Any) -> Flops:
    """Counts the operations of a program as it was written, whatever the device makes of it.

    The body of a `scan` counts as often as it runs. What no output depends on does not count.
    Recomputation (`jax.checkpoint`) does.

    Args:
        program: A `ClosedJaxpr`, such as `jax.make_jaxpr(function)(*args)`.
    """
    return _whole(_count(program.jaxpr, _Place()))


def mark(number: int) -> AbstractContextManager[Any]:
    """What is traced inside it can be told apart by `flops_by_mark`."""
    return jax.named_scope(f"{_MARK}{number}")


def flops_by_mark(program: Any) -> dict[int | None, Flops]:
    """As `count_flops`, apart for each part that was traced inside a `mark`.

    An operation belongs to the innermost mark that it was traced in, through every transformation
    of JAX; under None is what was traced in none. So all of them sum to the whole.

    Args:
        program: A `ClosedJaxpr`, such as `jax.make_jaxpr(function)(*args)`.
    """
    parts: dict[int | None, list[_Part]] = {}
    for part in _count(program.jaxpr, _Place()):
        parts.setdefault(part.mark, []).append(part)
    return {number: _whole(group) for number, group in parts.items()}
