"""Linen's errors in a call, with the way out in treadle's words."""

import contextlib
from collections.abc import Iterator

from ..._errors import ArgumentValueError, TreeError
from .._packages import required


def _plain(error: Exception) -> str:
    """What Flax says, without the address of its page."""
    # The module that `apply` was called on has no name there.
    return str(error).partition(" (https://")[0].replace("None needs", "it needs")


@contextlib.contextmanager
def told(
    what: str, rngs: tuple[str, ...], keyed: bool, collections: list[str], inference: bool
) -> Iterator[None]:
    """Says what is wrong with the variables or the key of a call.

    Args:
        what: The module's name.
        rngs: The streams that the wrap names.
        keyed: Whether the call got a key.
        collections: Those that the wrap has.
        inference: Whether it is a call in inference.

    Raises:
        ArgumentValueError: The call draws, and has no key for it; or a flag is given twice.
        TreeError: The variables are not those of the module.
    """
    errors = required("flax.errors", "flax")
    try:
        yield
    except errors.InvalidRngError as error:
        if keyed:
            raise ArgumentValueError(
                f"The call of {what} draws from a stream that `rngs` (={rngs!r}) does not name: "
                f"{_plain(error)}. Name it: `from_linen(module, variables, rngs=(..., 'noise'))`."
            ) from error
        if inference:
            raise ArgumentValueError(
                f"The call of {what} draws random numbers in inference, and got no key: "
                f"{_plain(error)}. If it should draw none, nothing tells it so: a flag of its call "
                f"has a name such as `train` or `deterministic`, or is given to `from_linen` in "
                f"`training` and `inference`. If it should, write `model(x, key=key)`."
            ) from error
        raise ArgumentValueError(
            f"The call of {what} draws random numbers and got no key: {_plain(error)}. Write "
            f"`model(x, key=key)`; or `eqx.nn.inference_mode(model)` for a model that draws none."
        ) from error
    except ValueError as error:
        # That of `nn.merge_param`, which is a plain one.
        if "to the constructor and at call time" not in str(error):
            raise
        raise ArgumentValueError(
            f"A flag of {what} was given twice, to its constructor and by the call: {error} Leave "
            f"it out of the constructor, and `eqx.nn.inference_mode` sets it; or "
            f"`from_linen(module, variables, training={{}}, inference={{}})` leaves it as it is."
        ) from error
    except (errors.ScopeCollectionNotFound, errors.ScopeVariableNotFoundError) as error:
        raise TreeError(
            f"`variables` lack what {what} reads: {_plain(error)} There are the collections "
            f"{', '.join(map(repr, collections))}: hand over all that `module.init` returned, and "
            f"name those that are no parameters in `mutable`, `mutable=('batch_stats',)`."
        ) from error
    except (errors.ScopeParamNotFoundError, errors.ScopeParamShapeError) as error:
        raise TreeError(
            f"`variables['params']` or the input does not fit {what}: {_plain(error)} The shapes "
            f"are those of `module.init(key, x)`; a module that wants a batch is called with one "
            f"(`TrainStep(..., batched=True)`), or on one example as `model.per_example()`."
        ) from error
