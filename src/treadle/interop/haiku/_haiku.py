"""Haiku transforms as Equinox modules, and their parameters back."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from ..._custom_types import Door
from ..._errors import ArgumentTypeError, ArgumentValueError, TreeError
from ..._random import as_key
from .._collections import Indices, read, require_kept, require_state, stated, written
from .._expand import expanded, squeezed
from .._held import Held
from .._keys import shared_key
from .._modes import Keywords, bound, is_switched, modes_of
from .._nested import Place, at, clash, nested
from .._packages import required
from ._errors import NAME, told

_STATE = "state"


class _Layout(NamedTuple):
    """Haiku's names, a module's and a variable's, and where they are in nested dictionaries."""

    names: tuple[tuple[str, str], ...]
    places: tuple[Place, ...]
    empty: tuple[str, ...]

    def nested(self, mapping: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Haiku's two levels by our places."""
        return nested(self.places, [mapping[module][name] for module, name in self.names])

    def two_levels(self, tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Our places as Haiku's two levels."""
        found: dict[str, dict[str, Any]] = {module: {} for module in self.empty}
        for (module, name), leaf in zip(self.names, at(tree, self.places), strict=True):
            found.setdefault(module, {})[name] = leaf
        return found


def _layout(mapping: Mapping[str, Mapping[str, Any]]) -> _Layout:
    names = tuple((module, name) for module, inside in mapping.items() for name in inside)
    # "mlp/~/linear_0" was made in the constructor of "mlp": the `~` says no more than that.
    whole = tuple((*module.split("/"), name) for module, name in names)
    short = tuple((*(part for part in outer if part != "~"), name) for *outer, name in whole)
    places = next((places for places in (short, whole) if not clash(places)), names)
    return _Layout(names, places, tuple(module for module in mapping if not mapping[module]))


@dataclasses.dataclass(frozen=True)
class _Transform:
    """All of a wrapped transform that is no array."""

    transformed: Any
    stateful: bool
    draws: bool
    params: _Layout
    state: _Layout
    signature: Held
    training: Keywords
    inference: Keywords
    flagless: bool
    axis_name: str
    expand: bool = False

    def call(
        self,
        params: PyTree,
        state: PyTree,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        key: Any,
        inference: Door[bool],
    ) -> tuple[Any, PyTree]:
        """What the function returns, and its next state."""
        inference = is_switched(inference)
        keywords = self.inference if inference else self.training
        key, own = shared_key(key, self.signature.value, args)
        args, given = bound(keywords, self.signature.value, args, {**kwargs, **own}, NAME)
        if self.expand:
            args, given = expanded((args, given))
        held: list[Any] = [self.params.two_levels(params)]
        if self.stateful:
            held.append(self.state.two_levels(state))
        if self.draws:
            held.append(None if key is None else as_key(key))
        with told(self.axis_name, inference, self.flagless, self.draws):
            answer = self.transformed.apply(*held, *args, **given)
        out, new = answer if self.stateful else (answer, {})
        return (squeezed(out, NAME) if self.expand else out), self._left(new)

    def _left(self, new: Any) -> PyTree:
        names = _layout(new).names
        if sorted(names) != sorted(self.state.names):
            raise TreeError(
                f"The call of {NAME} made or removed entries of its state: it has "
                f"{_listed(names)}, and was given {_listed(self.state.names)}. A state keeps its "
                f"entries: hand over the one that `transformed.init` returned."
            )
        return self.state.nested(new)


class HaikuModule(eqx.Module):
    """A Haiku function with its parameters, as `from_haiku` makes one.

    Attributes:
        params: Haiku's parameters in nested dictionaries: `params/mlp/linear_0/w`.
        inference: Whether the call gets the arguments of inference; what
            `eqx.nn.inference_mode` switches.
    """

    params: dict[str, Any]
    inference: bool
    transform: _Transform = eqx.field(static=True)

    def __call__(self, *args: Any, key: Any = None, **kwargs: Any) -> Any:
        """What the Haiku function returns.

        Args:
            args: As the function takes them.
            key: What Haiku calls `rng`: the call draws what `transformed.apply(params, key, x)`
                does. A function that takes an argument `key` gets the key there, and what it
                draws by `hk.next_rng_key()` is drawn with another.
            kwargs: As the function takes them; they win over those of the mode.

        Raises:
            ArgumentTypeError: The function takes other arguments.
            ArgumentValueError: It draws and has no key, or is a batch norm that sees one example.
            TreeError: Its parameters are not the function's.
        """
        out, _ = self.transform.call(
            self.params, {}, args, kwargs, key=key, inference=self.inference
        )
        return out

    def per_example(self) -> "HaikuModule":
        """The same model, called on one example where the function wants a batch.

        Each array goes in with an axis of length one in front, and comes out without it.
        """
        return dataclasses.replace(self, transform=dataclasses.replace(self.transform, expand=True))


class HaikuModuleWithState(eqx.Module):
    """A Haiku function that keeps a state, as `from_haiku` makes one beside that state.

    Attributes:
        params: Haiku's parameters in nested dictionaries.
        collections: Where the state has Haiku's.
        inference: Whether the call gets the arguments of inference; what
            `eqx.nn.inference_mode` switches.
    """

    params: dict[str, Any]
    collections: Indices
    inference: bool
    transform: _Transform = eqx.field(static=True)

    def __call__(
        self,
        x: PyTree,
        model_state: Door[eqx.nn.State | None] = None,
        *args: Any,
        key: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, eqx.nn.State]:
        """What the Haiku function returns, and the next state.

        Args:
            x: The first argument of the function.
            model_state: Haiku's state.
            args: The further arguments of the function.
            key: See `HaikuModule`.
            kwargs: As the function takes them; they win over those of the mode.

        Raises:
            ArgumentTypeError, ArgumentValueError, TreeError: See `HaikuModule`.
        """
        model_state = require_state(model_state)
        held = read(self.collections, model_state)[_STATE]
        out, new = self.transform.call(
            self.params, held, (x, *args), kwargs, key=key, inference=self.inference
        )
        return out, written(self.collections, model_state, {_STATE: new}, NAME)

    def per_example(self) -> "HaikuModuleWithState":
        """The same model, called on one example where the function wants a batch.

        See `HaikuModule.per_example`. In training the statistics would be those of one example.
        """
        return dataclasses.replace(self, transform=dataclasses.replace(self.transform, expand=True))


def from_haiku(
    transformed: Any,
    params: Door[Mapping[str, Mapping[str, Any]]],
    state: Door[Mapping[str, Mapping[str, Any]] | None] = None,
    *,
    training: Door[Mapping[str, Any] | None] = None,
    inference: Door[Mapping[str, Any] | None] = None,
    axis_name: str = "batch",
) -> HaikuModule | tuple[HaikuModuleWithState, eqx.nn.State]:
    """A Haiku function as an Equinox module: it trains, freezes and is saved like any other.

    The parameters are leaves under Haiku's names, split at the `/`, the `~` left out:
    `mlp/~/linear_0` has its weight at `params/mlp/linear_0/w`. (Where two would then be one, a
    layer made in a constructor and one made in the call, each `~` stays, as paths write it:
    `params/net/~0/linear/w`.) The function itself is static.

    Args:
        transformed: What `hk.transform` or `hk.transform_with_state` returned, or
            `hk.without_apply_rng` of it.
        params: What its `init` returned.
        state: With `hk.transform_with_state`, the state that its `init` returned.
        training: Keyword arguments of the call in training, `{"is_training": True}`; without it, a
            flag is found by its name as in `treadle.interop.flax.from_linen`. An empty dictionary
            says that there is none.
        inference: The same arguments in inference.
        axis_name: The name of the mapped axis of examples, as for `TrainStep`. A Haiku batch norm
            inside of it must have it too (`cross_replica_axis`), or see the whole batch
            (`batched=True`).

    Returns:
        The model, called as `model(x, key=key)`; where `state` has entries, a pair: the model,
        called as `model(x, model_state, key=key)`, which returns its output and the next state,
        and the state before the first step.

    Raises:
        ArgumentTypeError: `transformed` is none, or `params` or `state` are no dictionaries of
            dictionaries of arrays.
        ArgumentValueError: `state` is missing or not wanted; or `training` and `inference` do not
            fit each other, or the function's call.
        MissingExtraError: Haiku is not installed.

    Example:
        >>> params = transformed.init(jax.random.key(0), images[:1])
        >>> model = treadle.interop.haiku.from_haiku(transformed, params)
        >>> state = step.init(model, key=jax.random.key(1))
    """
    hk = required("haiku", "dm-haiku")
    if not isinstance(transformed, (hk.Transformed, hk.TransformedWithState)):
        raise ArgumentTypeError(
            f"`transformed` is a {type(transformed).__name__}: give what `hk.transform(f)` or "
            f"`hk.transform_with_state(f)` returned.{_of_several(hk, transformed)}"
        )
    stateful = isinstance(transformed, hk.TransformedWithState)
    if stateful == (state is None):
        raise ArgumentValueError(
            "`state` is missing: `hk.transform_with_state(f).init` returns `(params, state)`, and "
            "both go in."
            if stateful
            else "`state` was given, and `hk.transform(f)` keeps none: transform with "
            "`hk.transform_with_state(f)`."
        )
    own_params, own_state = _arrays("params", params), _arrays("state", state or {})
    draws, signature = _signature(transformed.apply, stateful)
    modes = modes_of(training, inference, signature, NAME)
    layout, state_layout = _layout(own_params), _layout(own_state)
    how = Held(signature)
    flagless = training is None and inference is None and not modes[0]
    transform = _Transform(
        transformed, stateful, draws, layout, state_layout, how, *modes, flagless, axis_name
    )
    ours = layout.nested(own_params)
    if not state_layout.names:
        return HaikuModule(ours, False, transform)
    indices, model_state = stated({_STATE: state_layout.nested(own_state)})
    return HaikuModuleWithState(ours, indices, False, transform), model_state


def to_haiku(
    model: Door[HaikuModule | HaikuModuleWithState],
    model_state: Door[eqx.nn.State | None] = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The parameters and the state of a Haiku function, as its `apply` takes them.

    The inverse of `from_haiku`, bit for bit. The arrays are those of the model: the next step
    frees them, unless they come from `state.copy()`.

    Args:
        model: What `from_haiku` made, at any point of its training: `state.model`.
        model_state: Its state, where it has one: `state.model_state`.

    Returns:
        `(params, state)`, under Haiku's own names; without a state, an empty dictionary.

    Raises:
        ArgumentTypeError: The model did not come from `from_haiku`, or its state is missing or not
            wanted.

    Example:
        >>> params, _ = treadle.interop.haiku.to_haiku(state.model)
        >>> logits = transformed.apply(params, None, images)
    """
    if not isinstance(model, (HaikuModule, HaikuModuleWithState)):
        raise ArgumentTypeError(
            f"`model` is a {type(model).__name__}, which `from_haiku` did not make: hand over "
            f"`state.model`."
        )
    require_kept(model_state, isinstance(model, HaikuModuleWithState), "to_haiku")
    transform = model.transform
    params = transform.params.two_levels(model.params)
    if isinstance(model, HaikuModule) or model_state is None:
        return params, transform.state.two_levels({})
    return params, transform.state.two_levels(read(model.collections, model_state)[_STATE])


def _of_several(hk: Any, transformed: Any) -> str:
    """The way out for what has several functions."""
    if isinstance(transformed, hk.MultiTransformed):
        return " One of several goes in as `hk.Transformed(multi.init, multi.apply[0])`."
    if isinstance(transformed, hk.MultiTransformedWithState):
        return " One of several goes in as `hk.TransformedWithState(multi.init, multi.apply[0])`."
    return ""


def _signature(apply: Any, stateful: bool) -> tuple[bool, inspect.Signature]:
    """Whether `apply` takes a key, and how the function itself is called."""
    signature = inspect.signature(apply)
    parameters = list(signature.parameters.values())[2 if stateful else 1 :]
    # `hk.without_apply_rng` takes it away.
    draws = bool(parameters) and parameters[0].name == "rng"
    # Without what it returns: that is no type that prints.
    plain = inspect.Signature(parameters[draws:], __validate_parameters__=False)
    return draws, plain


def _arrays(argument: str, given: Any) -> dict[str, dict[str, Any]]:
    """Haiku's two levels as plain dictionaries of arrays.

    Raises:
        ArgumentTypeError: They are something else.
    """
    is_mapping = isinstance(given, Mapping)
    if not is_mapping or not all(isinstance(inside, Mapping) for inside in given.values()):
        raise ArgumentTypeError(
            f"`{argument}` is no dictionary of dictionaries (={_short(given)}): give what "
            f"`transformed.init` returned, {{'linear': {{'w': ..., 'b': ...}}}}."
        )
    for module, inside in given.items():
        for name, leaf in inside.items():
            if not eqx.is_array_like(leaf):
                raise ArgumentTypeError(
                    f"`{argument}[{module!r}][{name!r}]` is a {type(leaf).__name__}, no array: "
                    f"`transformed.init` returns arrays."
                )
    return {
        module: {name: jnp.asarray(leaf) for name, leaf in inside.items()}
        for module, inside in given.items()
    }


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(names: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(repr("/".join(pair)) for pair in names) or "none"
