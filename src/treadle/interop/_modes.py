"""Training and inference: `eqx.nn.inference_mode` in the words of a call that takes a flag."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from jax.core import Tracer

from .._errors import ArgumentTypeError, ArgumentValueError
from ._held import Held
from ._keys import is_key

TRUE_IN_TRAINING = ("train", "training", "is_training", "is_train")
FALSE_IN_TRAINING = ("deterministic", "use_running_average", "inference")

Keywords = tuple[tuple[str, Held], ...]


def modes_of(
    training: Any, inference: Any, signature: inspect.Signature | None, what: str
) -> tuple[Keywords, Keywords]:
    """The keyword arguments of a call in training and in inference.

    Args:
        training: As the user gave them; `None` to go by the names of the parameters.
        inference: As the user gave them; `None` likewise.
        signature: Of the call, without `self`; `None` where there is none.
        what: What is called, for messages.

    Raises:
        ArgumentTypeError: One of them is no dictionary.
        ArgumentValueError: They name different arguments, or some that the call does not take.
    """
    if training is None and inference is None:
        return flags_among(() if signature is None else tuple(signature.parameters))
    for name, given in (("training", training), ("inference", inference)):
        if given is not None and not isinstance(given, Mapping):
            raise ArgumentTypeError(
                f"`{name}` (={given!r}) is a {type(given).__name__}: give a dictionary of keyword "
                f"arguments of the call, such as {{'train': {name == 'training'}}}."
            )
    training, inference = training or {}, inference or {}
    if set(training) != set(inference):
        raise ArgumentValueError(
            f"`training` names {_listed(training)} and `inference` names {_listed(inference)}: "
            f"give both a value for each, `training={{'train': True}}, "
            f"inference={{'train': False}}`."
        )
    strange = [name for name in training if signature is not None and not _takes(signature, name)]
    if strange and signature is not None:
        raise ArgumentValueError(
            f"`training` names {_listed(strange)}, which the call of {what} does not take: it is "
            f"called as {signature}."
        )
    return _keywords(training), _keywords(inference)


def is_switched(inference: Any) -> bool:
    """Whether a model's flag says that a call is in inference.

    Raises:
        ArgumentTypeError: The flag is traced.
    """
    if isinstance(inference, Tracer):
        raise ArgumentTypeError(
            "`inference` of the model is traced: it is a leaf of the model, and `jax.jit` takes "
            "each for an array. Write `eqx.filter_jit`, which leaves it as it is."
        )
    return bool(inference)


def flags_among(names: Iterable[str]) -> tuple[Keywords, Keywords]:
    """What the flags among some names are in training and in inference."""
    flags = {name: True for name in names if name in TRUE_IN_TRAINING}
    flags |= {name: False for name in names if name in FALSE_IN_TRAINING}
    return _keywords(flags), _keywords({name: not flag for name, flag in flags.items()})


def _keywords(given: Mapping[str, Any]) -> Keywords:
    return tuple((name, Held(value)) for name, value in given.items())


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "nothing"


def _takes(signature: inspect.Signature, name: str) -> bool:
    parameters = signature.parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def bound(
    keywords: Keywords,
    signature: inspect.Signature | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    what: str,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of one call: the caller's, and those of the mode beside them.

    Where the mode's follow the caller's they are given by their places, since what is lifted with
    `static_argnums` (`nn.remat`, `nn.jit`) knows no others.

    Args:
        keywords: Those of the mode.
        signature: Of the call, without `self`; `None` where it has none.
        args: The caller's positional arguments.
        kwargs: The caller's keyword arguments, which win.
        what: What is called, for messages.

    Raises:
        ArgumentTypeError: The call wants other arguments.
    """
    flags = {name: held.value for name, held in keywords if name not in kwargs}
    if signature is None:
        return args, {**flags, **kwargs}
    try:
        placed = signature.bind_partial(*args).arguments
    except TypeError:  # Told below, with all of them.
        placed = {}
    for name in flags:
        if is_key(placed.get(name)):
            raise ArgumentTypeError(
                f"{what} is called as {signature}, and got a key for `{name}`: hand a key over by "
                f"its name, `model(x, key=key)`."
            )
    flags = {n: value for n, value in flags.items() if n not in placed and _takes(signature, n)}
    try:
        signature.bind(*args, **kwargs, **flags)
    except TypeError as error:
        raise ArgumentTypeError(
            f"{what} is called as {signature}, and got {_call(args, {**kwargs, **flags})}: "
            f"{error}. {_tupled(args)}"
            f"What a call takes beside its input goes into each call, `model(x, mask=mask, "
            f"key=key)`; what says whether it trains, into `training={{'train': True}}, "
            f"inference={{'train': False}}` where the module is brought in."
        ) from error
    placing = list(args)
    for name, parameter in list(signature.parameters.items())[len(args) :]:
        if name not in flags or parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            break
        placing.append(flags.pop(name))
    return tuple(placing), {**flags, **kwargs}


def _tupled(args: tuple[Any, ...]) -> str:
    if len(args) != 1 or not isinstance(args[0], (tuple, list, dict)):
        return ""
    return (
        "Several inputs are given one by one, `model(*inputs)`; to `predict` and `export` goes a "
        "function of one example, `lambda inputs: eqx.nn.inference_mode(model)(*inputs)`. "
    )


def _call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    words = [type(arg).__name__ for arg in args] + [f"{name}=..." for name in kwargs]
    return f"({', '.join(words)})"
