"""Haiku's errors in a call, with the way out in treadle's words."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ..._errors import ArgumentValueError, TreeError
from .._norms import is_mapped
from .._packages import required

NAME = "the Haiku function"


@contextlib.contextmanager
def told(axis_name: str, inference: bool, flagless: bool, draws: bool) -> Iterator[None]:
    """Says what is wrong with the parameters, the state or the key of a call.

    Args:
        axis_name: That of the examples, which a batch norm must reduce over where it is mapped.
        inference: Whether it is a call in inference.
        flagless: Whether nothing tells the function so.
        draws: Whether it is handed a key at all.

    Raises:
        ArgumentValueError: The call draws and has no key, or is a batch norm that sees one example.
        TreeError: The parameters or the state are not those of the function.
    """
    try:
        with _norms_checked(axis_name, inference and flagless):
            yield
    except ArgumentValueError:
        raise
    except ValueError as error:
        # Haiku raises plain `ValueError`s, as the function itself may.
        text = str(error)
        if "non-None PRNGKey" in text and not draws:
            raise ArgumentValueError(
                f"The call of {NAME} draws random numbers, and `hk.without_apply_rng` hands it no "
                f"key: give `from_haiku` the transform without it."
            ) from error
        if "non-None PRNGKey" in text and inference:
            raise ArgumentValueError(
                f"The call of {NAME} draws random numbers in inference, and got no key. If it "
                f"should draw none, nothing tells it so: let it take a flag such as `is_training`, "
                f"or give `from_haiku` the argument in `training` and `inference`. If it should, "
                f"write `model(x, key=key)`."
            ) from error
        if "non-None PRNGKey" in text:
            raise ArgumentValueError(
                f"The call of {NAME} draws random numbers and got no key. Write "
                f"`model(x, key=key)`; or `eqx.nn.inference_mode(model)` for a model that draws "
                f"none."
            ) from error
        if "Unable to retrieve" in text or "with retrieved shape" in text:
            raise TreeError(
                f"`params`, `state` or the input does not fit {NAME}: {text} Hand over what "
                f"`transformed.init(key, x)` returned for inputs of these shapes; a function that "
                f"wants a batch is called with one (`TrainStep(..., batched=True)`), or on one "
                f"example as `model.per_example()`."
            ) from error
        raise


def _norms_checked(axis_name: str, unswitched: bool) -> contextlib.AbstractContextManager[None]:
    hk = required("haiku", "dm-haiku")
    mapped = is_mapped(axis_name)
    if not mapped and not unswitched:
        return contextlib.nullcontext()

    def check(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        if isinstance(layer, hk.BatchNorm) and context.method_name == "__call__":
            training = args[1] if len(args) > 1 else kwargs.get("is_training")
            if training and unswitched:
                raise ArgumentValueError(
                    f"Haiku's {layer.module_name} normalises by the batch in inference too: the "
                    f"function takes no argument that says whether it trains. Let it take "
                    f"`is_training`, or give `from_haiku` the argument in `training` and "
                    f"`inference`. If that is meant, say so: `from_haiku(..., training={{}}, "
                    f"inference={{}})`."
                )
            if training and mapped and not layer.cross_replica_axis:
                raise ArgumentValueError(
                    f"Haiku's {layer.module_name} has no `cross_replica_axis`, so it takes its "
                    f"statistics over what it is given, and that is one example: the axis "
                    f"{axis_name!r} is mapped. Train with `TrainStep(..., batched=True, "
                    f"stateful=True)`, whose loss sees the whole batch; or make the layer with "
                    f"`hk.BatchNorm(..., cross_replica_axis={axis_name!r})`."
                )
        return call(*args, **kwargs)

    return hk.intercept_methods(check)
