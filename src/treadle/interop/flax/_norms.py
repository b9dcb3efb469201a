"""Batch norms that were not told which axis the examples lie along."""

import contextlib
from collections.abc import Callable
from typing import Any

from ..._errors import ArgumentValueError
from .._norms import is_mapped
from .._packages import required

_NO_FLAG = (
    "no argument of the module's call, and no attribute of the module, has a name that says "
    "whether it trains. Let its call take `train` and hand it on, "
    "`nn.BatchNorm(use_running_average=not train)`, `nn.Dropout(0.1, deterministic=not train)`; or "
    "give `from_linen` the argument in `training` and `inference`"
)


def without_axis(layer: str, axis_name: str) -> ArgumentValueError:
    """The error for a batch norm that is given one example of a mapped batch."""
    return ArgumentValueError(
        f"{layer} has no `axis_name`, so it takes its statistics over what it is given, and that "
        f"is one example: the axis {axis_name!r} is mapped. Train with `TrainStep(..., "
        f"batched=True, stateful=True)`, whose loss sees the whole batch; or make the layer with "
        f"`nn.BatchNorm(..., axis_name={axis_name!r})`."
    )


def linen_norms_checked(
    axis_name: str, unswitched: bool
) -> contextlib.AbstractContextManager[None]:
    """Refuses Linen's batch norms, inside, that would normalise by what they should not.

    Args:
        axis_name: That of the examples: one example is not normalised by itself.
        unswitched: Whether this is inference and nothing tells the module so: a batch is not
            normalised by itself either.

    Raises:
        ArgumentValueError: Once one of them is called.
    """
    linen = required("flax.linen", "flax")
    mapped = is_mapped(axis_name)
    if not mapped and not unswitched:
        return contextlib.nullcontext()

    def check(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if isinstance(layer, linen.BatchNorm) and context.method_name == "__call__":
            running = args[1] if len(args) > 1 else kwargs.get("use_running_average")
            running = layer.use_running_average if running is None else running
            name = f"Linen's {'/'.join(layer.path) or 'BatchNorm'}"
            if not running and unswitched:
                raise ArgumentValueError(
                    f"{name} normalises by the batch in inference too: {_NO_FLAG}. If that is "
                    f"meant, say so: `from_linen(..., training={{}}, inference={{}})`."
                )
            if not running and layer.axis_name is None and mapped:
                raise without_axis(name, axis_name)
        return call(*args, **kwargs)

    return linen.intercept_methods(check)
