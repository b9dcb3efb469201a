"""From the user's loss function to totals: one example mapped over, or a whole batch at once."""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._casting import computing, computing_modules
from ._custom_types import Args, Batch, LossFn, Model
from ._errors import ArgumentTypeError, LossError
from ._model_state import fresh, mapped_leaves, require_same_state
from ._precision import Precision
from ._random import example_keys
from ._weighted import RESERVED, Sum, Total, Weighted, as_total, reduce_examples

_ONE_EXAMPLE = (
    "The loss function sees one example at a time (treadle maps it over the batch), so it must "
    "return a scalar; `TrainStep(..., batched=True)` hands it the whole batch."
)
_SUBCLASSES = (
    "treadle: under `precision=` the loss gets modules of subclasses of their own classes, which "
    "cast. A module that the loss captures from outside is not of these: hand it over as `args`, "
    "or compare `jax.tree.leaves` of both."
)
_WHOLE_BATCH = "With `batched=True` it must reduce the batch itself: `jnp.mean(losses)`."


def require_signature(fn: Any, name: str, arguments: tuple[str, ...]) -> None:
    """Refuses at the door what cannot be called with these arguments.

    Raises:
        ArgumentTypeError: If `fn` is not callable, or wants other arguments.
    """
    wanted = f"{name}({', '.join(arguments)})"
    if not callable(fn):
        raise ArgumentTypeError(
            f"`{name}` (={fn!r}) is a {type(fn).__name__}, not a function. Write {wanted}."
        )
    try:
        signature = inspect.signature(fn)
    except ValueError:  # Some built-in callables have none; calling them will tell.
        return
    keywords = {"args": None} if _args_parameter(fn) is not None else {}
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise ArgumentTypeError(
            f"`{name}` has the signature {_name(fn)}{signature}, but it is called as {wanted}: "
            f"{error}. {_signature_hint(signature, arguments)}"
        ) from error


def _signature_hint(signature: inspect.Signature, arguments: tuple[str, ...]) -> str:
    """The way out, by what the function seems to be written for."""
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    count = sum(p.kind in places for p in signature.parameters.values())
    if "model_state" in arguments and count == len(arguments) - 1:
        return (
            "With `stateful=True` it takes the model's state as its second argument, and a loss "
            "returns the new one: `return loss, model_state`. A model without state (BatchNorm, "
            "SpectralNorm) needs no `stateful`."
        )
    if "model_state" not in arguments and count == len(arguments) + 1:
        return (
            "For a model with state (BatchNorm, SpectralNorm) say `stateful=True`. What is "
            "neither batched nor trained goes through `args`."
        )
    return "What is neither batched nor trained goes through `args`."


def takes_args(fn: LossFn) -> bool:
    """Whether a function has a parameter `args`, or takes any keyword."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except ValueError:  # Some built-in callables have no signature; calling them will tell.
        return True
    return _args_parameter(fn) is not None or any(p.kind is p.VAR_KEYWORD for p in parameters)


def wants_args(fn: LossFn) -> bool:
    """Whether a function cannot be called without `args`."""
    parameter = _args_parameter(fn)
    return parameter is not None and parameter.default is parameter.empty


def _args_parameter(fn: LossFn) -> inspect.Parameter | None:
    try:
        parameter = inspect.signature(fn).parameters.get("args")
    except ValueError:  # Some built-in callables have none.
        return None
    # `*args` is something else.
    named = parameter is not None and parameter.kind is not parameter.VAR_POSITIONAL
    return parameter if named else None


def missing_args(fn: LossFn) -> ArgumentTypeError:
    """The error for a loss that wants `args` and gets none."""
    return ArgumentTypeError(
        f"`args` is missing: the loss function {_name(fn)} cannot be called without it. Write "
        f"`step(state, batch, args=...)`, and `fit(..., args=...)`."
    )


def unwanted_args(fn: LossFn) -> ArgumentTypeError:
    """The error for `args` that the loss does not take."""
    return ArgumentTypeError(
        f"`args` was given, but the loss function {_name(fn)} has no parameter `args`: write "
        f"it as `def {_name(fn)}(model, example, key, *, args)`."
    )


def _name(fn: Any) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


@dataclasses.dataclass(frozen=True)
class LossCall:
    """How the user's loss is called.

    Attributes:
        loss_fn: The user's.
        batched: Whether it gets a whole (micro)batch, and one key.
        stateful: Whether it takes the model's state, and returns the next.
        axis_name: The name of the mapped axis of examples.
        precision: In which formats the model computes; `None` for its own.
    """

    loss_fn: LossFn
    batched: bool
    stateful: bool
    axis_name: str
    precision: Precision | None

    def totals(
        self,
        model: Model,
        model_state: PyTree,
        batch: Batch,
        key: jax.Array,
        indices: jax.Array,
        args: Args | None,
    ) -> tuple[dict[str, Total], PyTree]:
        """The loss and its aux, added up over a (micro)batch; and the model's next state.

        Args:
            model: The model.
            model_state: The state of its stateful layers, or `None`.
            batch: Arrays with a leading axis of examples.
            key: The step's key; the microbatch's own where the loss is batched.
            indices: Each example's place in the global batch.
            args: What is handed to the loss as `args`, if anything.

        Raises:
            LossError: If what comes back is not a real scalar loss and a dictionary of aux, or the
                state is not one state for all examples.
        """
        model = computing(model, self.precision)
        extra = {} if args is None else {"args": computing_modules(args, self.precision)}
        if self.batched:
            return self._one(model, model_state, batch, key, extra)

        def mapped(state_axis: int | None) -> Any:
            return eqx.filter_vmap(
                self._one,
                in_axes=(None, None, 0, 0, None),
                out_axes=(0, None if state_axis is None else eqx.if_array(state_axis)),
                axis_name=self.axis_name,
            )

        arguments = (model, model_state, batch, example_keys(key, indices), extra)
        try:
            totals, new_state = mapped(None)(*arguments)
        except ValueError as error:
            # "Custom node type mismatch" in older JAX.
            if self.precision is not None and re.search("structure|type mismatch", str(error)):
                error.add_note(_SUBCLASSES)
            if model_state is None or "out_axes" not in str(error):
                raise
            per_example = mapped_leaves(lambda: mapped(0)(*arguments)[1], model_state)
            raise LossError(_per_example_state(per_example, self.axis_name)) from error
        except NameError as error:
            if "axis name" not in str(error):
                raise
            raise LossError(
                f"{str(error).rstrip('.')}: a layer reduces over an axis of another name than the "
                f"one that the step maps over, which is {self.axis_name!r}. Give both one name: "
                f"`eqx.nn.BatchNorm(size, axis_name={self.axis_name!r}, mode='batch')`, or "
                f"`TrainStep(..., axis_name=...)`."
            ) from error
        return {name: reduce_examples(total) for name, total in totals.items()}, new_state

    def _one(
        self,
        model: Model,
        model_state: PyTree,
        example: PyTree,
        key: jax.Array,
        extra: dict[str, Args],
    ) -> tuple[dict[str, Total], PyTree]:
        hint = _WHOLE_BATCH if self.batched else _ONE_EXAMPLE
        if not self.stateful:
            return _totals(self.loss_fn(model, example, key, **extra), hint), None
        returned = self.loss_fn(model, fresh(model_state), example, key, **extra)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise LossError(
                f"The loss function returned {_what(returned)}: with `stateful=True` it returns "
                f"the loss and the model's new state, `return loss, model_state`, or with aux "
                f"`return (loss, aux), model_state`."
            )
        figures, new_state = returned
        if isinstance(figures, eqx.nn.State):
            raise LossError(
                "The loss function returned the model's state first: the state comes second, "
                "`return loss, model_state`, or with aux `return (loss, aux), model_state`."
            )
        return _totals(figures, hint), require_same_state(model_state, new_state)


def _what(returned: Any) -> str:
    if isinstance(returned, tuple):
        return f"a tuple of {len(returned)}"
    return f"a {type(returned).__name__}"


def _per_example_state(paths: list[str], axis_name: str) -> str:
    named = ", ".join(map(repr, paths)) or "a leaf"
    return (
        f"The new `model_state` differs from example to example (in {named}), but there is one "
        f"state for the whole batch. A stateful layer reduces over the examples before it sets its "
        f"state: `jax.lax.pmean(value, {axis_name!r})` (or `psum`, `pmax`), as `eqx.nn.BatchNorm` "
        f"does over its `axis_name`. What is to be kept per example is aux, not state; and with "
        f"`batched=True` the loss sees the whole batch."
    )


def _totals(returned: Any, hint: str) -> dict[str, Total]:
    loss, aux = _split(returned)
    figures = {"loss": _loss_total(loss, hint)}
    for name, leaf in flatten_aux(aux, "the aux of the loss").items():
        if name in RESERVED:
            raise LossError(
                f"The aux of the loss has an entry {name!r}: the names "
                f"{', '.join(map(repr, RESERVED))} are taken. Call it something else."
            )
        figures[name] = as_total(name, leaf)
    return figures


def _split(returned: Any) -> tuple[Any, Any]:
    if not isinstance(returned, tuple):
        return returned, {}
    if len(returned) != 2:
        raise LossError(
            f"The loss function returned a tuple of {len(returned)}: return `loss` or "
            f"`(loss, aux)`, where aux is a dictionary of names to numbers."
        )
    return returned


def flatten_aux(aux: Any, what: str) -> dict[str, Any]:
    """A dictionary of figures, nested ones under `outer/inner`.

    Raises:
        LossError: If it is not a dictionary.
    """
    if not isinstance(aux, Mapping):
        raise LossError(
            f"{what[0].upper()}{what[1:]} is a {type(aux).__name__} (={aux!r}): return a "
            f"dictionary of names to numbers, such as {{'accuracy': correct}}."
        )
    figures: dict[str, Any] = {}
    for key, leaf in aux.items():
        if not isinstance(key, str):
            raise LossError(
                f"{what[0].upper()}{what[1:]} has the key {key!r} of type {type(key).__name__}: "
                f"the names of figures are strings."
            )
        nested = flatten_aux(leaf, f"{key!r} in {what}") if isinstance(leaf, Mapping) else None
        entries = {key: leaf} if nested is None else {f"{key}/{n}": v for n, v in nested.items()}
        for name, value in entries.items():
            if name in figures:
                raise LossError(f"{what[0].upper()}{what[1:]} has {name!r} twice, once nested.")
            figures[name] = value
    return figures


def _loss_total(loss: Any, hint: str) -> Total:
    value = loss.value if isinstance(loss, Weighted) else loss
    if isinstance(loss, Sum):
        raise LossError(
            "The loss is a `treadle.Sum`: it must be a mean, so that the update does not depend on "
            "the batch size. Return the scalar, or `treadle.Weighted(value, weight)`."
        )
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:  # JAX says ValueError of `None`.
        raise LossError(
            f"The loss function returned {value!r} of type {type(value).__name__}, not a scalar. "
            f"Does it end in `return loss`? {hint}"
        ) from error
    if array.shape != ():
        raise LossError(f"The loss has shape {array.shape}, not (). {hint}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        kind = "complex" if jnp.issubdtype(array.dtype, jnp.complexfloating) else "not a float"
        cure = (
            "return a real number, such as `jnp.abs(loss)`"
            if kind == "complex"
            else (
                "it has no gradient. Return what it was computed from, before any `argmax` or `==`"
            )
        )
        raise LossError(f"The loss has dtype {array.dtype}, which is {kind}: {cure}.")
    return as_total("loss", loss)
