"""Whether a model can be called on one example and nothing else, as an exported program is."""

import inspect
from typing import Any

from .._errors import ArgumentTypeError

_DRAWS = """\
`model` draws: it wants a `key`, and an exported program has none of its own. Let an input make it,

    def program(inputs):
        return model(inputs["x"], key=jax.random.key(inputs["seed"]))

    treadle.export(program, {"x": x, "seed": np.uint32(0)})"""


_STATEFUL = (
    " A model whose layers have a state goes in as a pair, `(model, model_state)`, or as the "
    "training state."
)


def require_call(model: Any, model_state: Any) -> None:
    """Refuses what cannot be called as `model(x)`, or `model(x, model_state)`.

    Raises:
        ArgumentTypeError: With the way out.
    """
    if inspect.isclass(model):
        raise ArgumentTypeError(
            f"`model` is the class {model.__name__}: give a model that was made of it, such as "
            f"`state.model`, or the training state."
        )
    if not callable(model):
        raise ArgumentTypeError(
            f"`model` is of type {type(model).__name__}, which cannot be called: give a model, a "
            f"function of one example, or a training state."
        )
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):  # Some of C have none: then the call itself says what is wrong.
        return
    given = ["x"] if model_state is None else ["x", "model_state"]
    try:
        signature.bind(*given)
    except TypeError as error:
        raise ArgumentTypeError(_ways_out(signature, given)) from error


def _ways_out(signature: inspect.Signature, given: list[str]) -> str:
    parameters = signature.parameters
    keyed = "key" in parameters and parameters["key"].default is inspect.Parameter.empty
    if keyed and _takes(signature, given):
        return _DRAWS
    called = f"`model({', '.join(given)})`"
    more = "" if "model_state" in given else _STATEFUL
    return (
        f"`model` is called {called}, and takes {signature}: wrap it in a function of one example "
        f"that gives it the rest.{more}"
    )


def _takes(signature: inspect.Signature, given: list[str]) -> bool:
    """Whether a key is all that is missing."""
    try:
        signature.bind(*given, key=None)
    except TypeError:
        return False
    return True
