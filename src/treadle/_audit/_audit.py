"""`audit`: is a step ready for production?"""

from collections.abc import Callable, Iterable
from typing import Any

from .._custom_types import Door
from ._report import Report


def audit(
    fn: Door[Callable[..., Any]], *args: Any, ignore: Door[Iterable[str]] = (), **kwargs: Any
) -> Report:
    """Reads the program that JAX traces and compiles, and says what is wrong with it, and where.

    Nothing runs: the function is traced (twice, to see whether it is the same program), lowered and
    compiled. Its arguments stay usable, also those that it donates; what was compiled for it before
    stays, and nothing is added to it; the random states of NumPy and of `random` are as they were;
    tracers that the function leaves in what it can reach are taken out again.

    A finding can be waved through: `ignore=["key-reuse"]`, or on its line the comment
    `# treadle: ignore[key-reuse]`.

    Args:
        fn: A `TrainStep`, an `EvalStep`, a function under `jax.jit`, `eqx.filter_jit`, `nnx.jit` or
            `jax.pmap`, a method or a partial application of one, or a plain function, which is
            audited as if it were compiled, and told that it is not.
        args: What it is called with; for a step `state, batch`, for an `EvalStep` `model, batch`.
            A `jax.ShapeDtypeStruct` can stand for an array.
        ignore: Rules that do not count.
        kwargs: What it is called with by name.

    Returns:
        The findings, what the program costs, and a checklist.

    Raises:
        ArgumentTypeError: `fn` is no function, or `ignore` is one string.
        ArgumentValueError: `ignore` names no rule.

    Example:
        >>> report = treadle.audit(step, state, batch)
        >>> print(report)
        >>> assert report.ok
    """
    # Everything that looks at programs is imported by the first audit.
    from ._run import run

    return run(fn, args, kwargs, ignore)
