"""What is the same when it is compiled."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from ._law import Law, copied, on_device
from ._structure import structural_difference

# What JAX raises of a function that cannot be traced.
UNTRACEABLE = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)


def check_jit(f: Callable[..., Any], *args: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Compiled it is the same function: `jit(f)(x) = f(x)`, traced once.

    The results agree in structure, static fields, dtypes, weak types and numbers; a second call
    gives the same and is not traced again. Where the result can be an argument (a state, a model),
    it is handed back in, and that is not traced again either: a transformation that makes a type
    weak would compile twice in every loop.

    Compiled with `eqx.filter_jit`: leaves of the arguments that are no arrays are static. NumPy
    arrays among the arguments become JAX's first. XLA may round fused operations otherwise than
    single ones; give a tolerance where `f` computes.

    Args:
        f: The function.
        args: Its arguments.
        rtol: Arrays of floats may differ by `atol + rtol * |f(x)|`; by default not in a single bit.
        atol: See there.

    Raises:
        LawError: It cannot be traced, gives something else, or is traced again.

    Example:
        >>> check_jit(lambda model, decay: treadle.tree.ema(model, model, decay), model, 0.5)
    """
    law = Law("check_jit", rtol, atol)
    args = on_device(args)
    eager = law.call("f", f, *args)
    traces = 0

    def counted(*inner: Any) -> Any:
        nonlocal traces
        traces += 1
        return f(*inner)

    jitted = eqx.filter_jit(counted)
    try:
        first = jitted(*args)
    except UNTRACEABLE as error:
        raise law.broken(f"f cannot be compiled: {_first_line(error)}") from error
    law.require_same(first, eager, ("jit(f)(*args)", "f(*args)"))
    second = jitted(*copied(args))
    again = Law("check_jit")  # It is the same program: no tolerance.
    again.require_same(second, first, ("the second call of jit(f)", "the first"))
    if traces != 1:
        raise law.broken(f"jit(f) was traced {traces} times for two calls with equal arguments")
    if args and _differs_in_strength_at_most(first, args[0]):
        jitted(first, *args[1:])
        if traces != 1:
            found = structural_difference(first, args[0])
            raise law.broken(
                "jit(f) is traced again when its result is handed back in; a is f(tree), b is tree",
                found,
            )


def _differs_in_strength_at_most(result: Any, argument: Any) -> bool:
    """Whether a result can stand for the argument, but for weak types."""
    return all(each.kind == "weak type" for each in structural_difference(result, argument))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0].rstrip('.')}"
