"""What is the same when it is compiled."""

from collections.abc import Callable
from typing import Any

import equinox as eqx

from ...tree._diff import diff
from ...tree._difference import Diff
from ._law import Law, copied, on_device
from ._law import __tracebackhide__ as __tracebackhide__
from ._structure import structural_difference
from ._traced import Attempt


def check_jit(f: Callable[..., Any], *args: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Compiled it is the same function: `jit(f)(x) = f(x)`, traced once.

    The results agree in structure, static fields, dtypes, weak types and numbers; a second call
    gives the same and is not traced again. Where the result can be the first argument (a state, a
    model), or the first of a tuple can, it is handed back in, and that is not traced again either:
    a transformation that makes a type weak, or counts in a Python number, would compile again in
    every loop.

    Compiled with `eqx.filter_jit`: leaves of the arguments that are no arrays are static. NumPy
    arrays among the arguments, and in the result, become JAX's first. XLA may round fused
    operations otherwise than single ones; give a tolerance where `f` computes.

    Args:
        f: The function.
        args: Its arguments.
        rtol: Arrays of floats may differ by `atol + rtol * |f(x)|`; by default not in a single bit.
        atol: See there.

    Raises:
        LawError: It cannot be traced, gives something else, or is traced again; or it remembers
            something of an earlier call.

    Example:
        >>> check_jit(lambda model, decay: treadle.tree.ema(model, model, decay), model, 0.5)
    """
    law = Law("check_jit", rtol, atol)
    args = on_device(args)
    traces = 0

    def counted(*inner: Any) -> Any:
        nonlocal traces
        traces += 1
        return f(*inner)

    jitted = eqx.filter_jit(counted)
    attempt = Attempt(law, jitted, *args)
    eager = on_device(attempt.common(f, *args))
    attempt.require("f cannot be compiled")
    first = attempt.result
    law.require_same(first, eager, ("jit(f)(*args)", "f(*args)"))
    second = jitted(*copied(args))
    again = Law("check_jit")  # It is the same program: no tolerance.
    again.require_same(second, first, ("the second call of jit(f)", "the first"))
    if traces != 1:
        raise law.broken(f"jit(f) was traced {traces} times for two calls with equal arguments")
    for result in _candidates(first, args):
        jitted(result, *args[1:])
        if traces != 1:
            raise law.broken(
                "jit(f) is traced again when its result is handed back in; a is the result, b the "
                "argument",
                _what_is_static(result, args[0]),
            )


def _candidates(result: Any, args: Any) -> list[Any]:
    """What of a result can be handed back in for the first argument."""
    parts = [result, *result[:1]] if type(result) is tuple else [result]
    return [part for part in parts if args and _differs_in_strength_at_most(part, args[0])]


def _differs_in_strength_at_most(result: Any, argument: Any) -> bool:
    """Whether a result can stand for the argument, but for weak types."""
    return all(each.kind == "weak type" for each in structural_difference(result, argument))


def _what_is_static(result: Any, argument: Any) -> Diff:
    """What differs in a way that a compiled program depends on."""
    return Diff(tuple(e for e in diff(result, argument) if e.kind in ("weak type", "leaf")))
