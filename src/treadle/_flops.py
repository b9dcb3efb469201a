"""How many floating point operations a traced program asks for, loops times their trips."""

import math
from collections.abc import Callable, Sequence
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
    "ceil", "cos", "cosh", "digamma", "div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1",
    "floor", "integer_pow", "lgamma", "log", "log1p", "logistic", "max", "min", "mul", "neg",
    "nextafter", "pow", "rem", "round", "rsqrt", "sign", "sin", "sinh", "sqrt", "square", "sub",
    "tan", "tanh",
})
# One per element that goes in.
_REDUCTIONS = frozenset({
    "argmax", "argmin", "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "reduce_max",
    "reduce_min", "reduce_prod", "reduce_sum",
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


def _sum(parts: Sequence[Flops], times: float = 1.0, notes: tuple[str, ...] = ()) -> Flops:
    products: dict[str, float] = {}
    told = dict.fromkeys(notes)
    for part in parts:
        for name, number in part.products.items():
            products[name] = products.get(name, 0.0) + times * number
        told.update(dict.fromkeys(part.notes))
    return Flops(products, times * sum((part.elementwise for part in parts), 0.0), tuple(told))


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


def _dot_general(equation: Any, live: Sequence[bool]) -> Flops:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    depth = math.prod(shape[axis] for axis in contracted)
    return _product(equation, equation.outvars[0].aval.size * depth)


def _convolution(equation: Any, live: Sequence[bool]) -> Flops:
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


def _scan(equation: Any, live: Sequence[bool]) -> Flops:
    carried = equation.params["num_carry"]
    # What is carried may be needed by the next round.
    needed = [True] * carried + list(live[carried:])
    body = _count(equation.params["jaxpr"].jaxpr, needed)
    return _sum([body], times=float(equation.params["length"]))


def _while(equation: Any, live: Sequence[bool]) -> Flops:
    parts = [_count(equation.params[name].jaxpr) for name in ("cond_jaxpr", "body_jaxpr")]
    note = "the body of a `while` loop is counted once"
    return _sum(parts, notes=(note,) if any(part.products for part in parts) else ())


def _cond(equation: Any, live: Sequence[bool]) -> Flops:
    branches = [_count(branch.jaxpr, live) for branch in equation.params["branches"]]
    largest = max(branches, key=lambda branch: (branch.total, branch.elementwise))
    differ = any(branch.products != largest.products for branch in branches)
    note = "of a `cond`, the largest branch is counted"
    return _sum([largest], notes=(note,) if differ else ())


def _shard_map(equation: Any, live: Sequence[bool]) -> Flops:
    """The program of one device, as often as there are shards."""
    mesh = equation.params["mesh"]
    manual = equation.params.get("manual_axes", mesh.axis_names)
    times = float(math.prod(mesh.shape[name] for name in manual))
    return _sum([_count(_only(equation), live)], times=times)


def _linear_solve(equation: Any, live: Sequence[bool]) -> Flops:
    return _count(equation.params["jaxprs"].solve.jaxpr)


def _only(equation: Any) -> Any:
    (inner,) = _inner(equation)
    return inner


_RULES: dict[str, Callable[[Any, Sequence[bool]], Flops]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
    "custom_linear_solve": _linear_solve,
}


def _inner(equation: Any) -> list[Any]:
    return [inner for value in equation.params.values() for inner in inner_jaxprs(value)]


def _one_for_each(aval: Any) -> Flops:
    return Flops({}, float(aval.size), ()) if _is_float(aval.dtype) else _NOTHING


def _of_equation(equation: Any, live: Sequence[bool]) -> Flops:
    name = equation.primitive.name
    if name in _RULES:
        return _RULES[name](equation, live)
    if name in _OPAQUE:
        return Flops({}, 0.0, (f"`{name}` is not counted",))
    if name in _ELEMENTWISE:
        return _one_for_each(equation.outvars[0].aval)
    if name in _REDUCTIONS:
        return _one_for_each(equation.invars[0].aval)
    calls = _inner(equation)
    same = len(calls) == 1 and len(calls[0].outvars) == len(live)
    return _sum([_count(call, live if same else None) for call in calls])


def _count(jaxpr: Any, live: Sequence[bool] | None = None) -> Flops:
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
            parts.append(_of_equation(equation, used))
    return _sum(parts)


def count_flops(program: Any) -> Flops:
    """Counts the operations of a program as it was written, whatever the device makes of it.

    The body of a `scan` counts as often as it runs. What no output depends on does not count.
    Recomputation (`jax.checkpoint`) does.

    Args:
        program: A `ClosedJaxpr`, such as `jax.make_jaxpr(function)(*args)`.
    """
    return _count(program.jaxpr)
