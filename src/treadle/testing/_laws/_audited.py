"""What an audit finds nothing in."""

from collections.abc import Callable, Iterable
from typing import Any

from ..._audit import audit
from ..._custom_types import Door
from ..._errors import LawError


def assert_audited(
    step: Door[Callable[..., Any]],
    *args: Any,
    ignore: Door[Iterable[str]] = (),
    strict: bool = False,
    **kwargs: Any,
) -> None:
    """`treadle.audit` finds nothing wrong with a step.

    The step is traced and compiled, and never run.

    Args:
        step: A `treadle.TrainStep`, or your own step under `jax.jit` or `eqx.filter_jit`.
        args: What it is called with, `state, batch`.
        ignore: Rules that do not count, `["no-compilation-cache"]`.
        strict: Whether what an audit only remarks upon (`"info"`) counts too.
        kwargs: What it is called with by name.

    Raises:
        LawError: There is a finding; the message is the report.
        ArgumentValueError: `ignore` names no rule.

    Example:
        >>> def test_the_step_is_ready_for_production():
        ...     assert_audited(step, step.init(model, key=key), batch)
    """
    report = audit(step, *args, ignore=ignore, **kwargs)
    if not report.ok or (strict and report.findings):
        raise LawError(f"`assert_audited` does not hold:\n{report}")
