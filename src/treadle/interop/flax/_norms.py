"""Batch norms that were not told which axis the examples lie along."""

import contextlib
from collections.abc import Callable
from typing import Any

from ..._errors import ArgumentValueError
from .._norms import is_mapped
from .._packages import required


def without_axis(layer: str, axis_name: str) -> ArgumentValueError:
    """The error for a batch norm that is given one example of a mapped batch."""
    return ArgumentValueError(
        f"{layer} has no `axis_name`, so it takes its statistics over what it is given, and that "
        f"is one example: the axis {axis_name!r} is mapped. Train with `TrainStep(..., "
        f"batched=True, stateful=True)`, whose loss sees the whole batch; or make the layer with "
        f"`nn.BatchNorm(..., axis_name={axis_name!r})`."
    )


def linen_norms_checked(axis_name: str) -> contextlib.AbstractContextManager[None]:
    """Refuses Linen's batch norms, inside, that would normalise one example by itself.

    Raises:
        ArgumentValueError: Once one of them is called.
    """
    linen = required("flax.linen", "flax")
    if not is_mapped(axis_name):
        return contextlib.nullcontext()

    def check(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if isinstance(layer, linen.BatchNorm) and context.method_name == "__call__":
            running = args[1] if len(args) > 1 else kwargs.get("use_running_average")
            running = layer.use_running_average if running is None else running
            if not running and layer.axis_name is None:
                raise without_axis(f"Linen's {'/'.join(layer.path) or 'BatchNorm'}", axis_name)
        return call(*args, **kwargs)

    return linen.intercept_methods(check)
