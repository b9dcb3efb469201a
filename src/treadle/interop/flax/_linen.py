"""Flax Linen modules as Equinox modules, and their variables back."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..._custom_types import Door
from ..._errors import ArgumentTypeError, ArgumentValueError, TreeError
from ...tree._paths import flatten_with_paths
from .._collections import Indices, read, require_kept, require_state, stated, written
from .._expand import expanded, squeezed
from .._held import Held
from .._keys import shared_key, stream_keys
from .._modes import Keywords, bound, flags_among, is_switched, modes_of
from .._packages import required
from ._linen_errors import told
from ._norms import linen_norms_checked

PARAMS = "params"


@dataclasses.dataclass(frozen=True)
class _Definition:
    """All of a wrapped module that is no array."""

    module: Held
    rngs: tuple[str, ...]
    training: Keywords
    inference: Keywords
    attributes: tuple[Keywords, Keywords]
    flagless: bool
    axis_name: str
    expand: bool = False

    @property
    def name(self) -> str:
        return type(self.module.value).__name__

    def in_mode(self, inference: bool) -> Any:
        """The module, with its own flags of the mode."""
        flags = {name: held.value for name, held in self.attributes[inference]}
        module = self.module.value
        return module.clone(**flags) if flags else module

    def apply(
        self,
        variables: dict[str, PyTree],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        key: Any,
        method: Any,
        inference: Door[bool],
        mutable: list[str] | bool,
    ) -> Any:
        """`module.apply`, with what the mode and the streams want."""
        core = required("flax.core", "flax")
        inference = is_switched(inference)
        module = self.in_mode(inference)
        keywords = self.inference if inference else self.training
        signature = _signature(module, method)
        key, own = shared_key(key, signature, args)
        args, given = bound(keywords, signature, args, {**kwargs, **own}, self.name)
        if self.expand:
            args, given = expanded((args, given))
        rngs = None
        if key is not None and self.rngs:
            keys = stream_keys(key, len(self.rngs))
            rngs = dict(zip(self.rngs, keys, strict=True))
        collections = list(variables)
        with (
            told(self.name, self.rngs, rngs is not None, collections, inference),
            linen_norms_checked(self.axis_name, inference and self.flagless),
        ):
            answer = module.apply(
                variables, *args, rngs=rngs, method=method, mutable=mutable, **given
            )
        out, new = answer if mutable else (answer, {})
        out = squeezed(out, self.name) if self.expand else out
        return (out, core.unfreeze(new)) if mutable else out


class LinenModule(eqx.Module):
    """A Linen module with its parameters, as `from_linen` makes one.

    A pytree whose leaves are Flax's own parameters, under Flax's names: `params/Dense_0/kernel`.

    Attributes:
        params: The collection `"params"`.
        inference: Whether the call gets the arguments of inference; what
            `eqx.nn.inference_mode` switches.
    """

    params: dict[str, Any]
    inference: bool
    definition: _Definition = eqx.field(static=True)

    def __call__(
        self,
        *args: Any,
        key: Any = None,
        method: Door[str | Callable[..., Any] | None] = None,
        **kwargs: Any,
    ) -> Any:
        """What the Linen module returns.

        Args:
            args: As the Linen module takes them.
            key: For the streams that `rngs` names: with one, the call draws what
                `module.apply(variables, x, rngs={"dropout": key})` does; with several, the stream
                at index `i` gets `fold_in(key, i)`. A call that takes an argument `key` gets the
                key there, and its streams draw with others.
            method: Another method than `__call__`.
            kwargs: As the Linen module takes them; they win over those of the mode.

        Raises:
            ArgumentTypeError: The module takes other arguments.
            ArgumentValueError: It draws and has no key, or is a batch norm that sees one example.
            TreeError: Its variables are not the module's.
        """
        return self.definition.apply(
            {PARAMS: self.params},
            args,
            kwargs,
            key=key,
            method=method,
            inference=self.inference,
            mutable=False,
        )

    def per_example(self) -> "LinenModule":
        """The same model, called on one example where the module wants a batch.

        Each array goes in with an axis of length one in front, and comes out without it: for
        `treadle.predict` and `treadle.export` of a module that flattens by `x.shape[0]`.
        """
        return dataclasses.replace(self, definition=_expanding(self.definition))


class LinenModuleWithState(eqx.Module):
    """A Linen module whose call writes variables, as `from_linen` makes one beside a state.

    Attributes:
        params: The collection `"params"`.
        collections: Where the state has the others.
        inference: Whether the call gets the arguments of inference; what
            `eqx.nn.inference_mode` switches.
    """

    params: dict[str, Any]
    collections: Indices
    inference: bool
    definition: _Definition = eqx.field(static=True)

    def __call__(
        self,
        x: PyTree,
        model_state: Door[eqx.nn.State | None] = None,
        *args: Any,
        key: Any = None,
        method: Door[str | Callable[..., Any] | None] = None,
        **kwargs: Any,
    ) -> tuple[Any, eqx.nn.State]:
        """What the Linen module returns, and the next state.

        Args:
            x: The first argument of the Linen module.
            model_state: The state of the other collections.
            args: The further arguments of the Linen module.
            key: See `LinenModule`.
            method: Another method than `__call__`.
            kwargs: As the Linen module takes them; they win over those of the mode.

        Raises:
            ArgumentTypeError, ArgumentValueError, TreeError: See `LinenModule`; and the call left
                other variables than it was given.
        """
        model_state = require_state(model_state)
        held = read(self.collections, model_state)
        out, new = self.definition.apply(
            {PARAMS: self.params, **held},
            (x, *args),
            kwargs,
            key=key,
            method=method,
            inference=self.inference,
            mutable=list(held),
        )
        return out, written(self.collections, model_state, new, self.definition.name)

    def per_example(self) -> "LinenModuleWithState":
        """The same model, called on one example where the module wants a batch.

        See `LinenModule.per_example`. In training the statistics would be those of one example.
        """
        return dataclasses.replace(self, definition=_expanding(self.definition))


def _expanding(definition: _Definition) -> _Definition:
    return dataclasses.replace(definition, expand=True)


def _signature(module: Any, method: Any) -> inspect.Signature:
    """How a method is called, without `self`."""
    if method is None:
        method = "__call__"
    function = getattr(type(module), method, None) if isinstance(method, str) else method
    if not callable(function):
        raise ArgumentValueError(f"`method` (={method!r}) is no method of {type(module).__name__}.")
    signature = inspect.signature(function)
    _, *parameters = signature.parameters.values()
    return signature.replace(parameters=parameters)


def from_linen(
    module: Any,
    variables: Door[Mapping[str, PyTree]],
    *,
    rngs: Door[Sequence[str]] = ("dropout",),
    mutable: Door[Sequence[str]] = ("batch_stats",),
    training: Door[Mapping[str, Any] | None] = None,
    inference: Door[Mapping[str, Any] | None] = None,
    axis_name: str = "batch",
) -> LinenModule | tuple[LinenModuleWithState, eqx.nn.State]:
    """A Flax Linen module as an Equinox module: it trains, freezes and is saved like any other.

    The parameters are leaves under Flax's names (`params/Dense_0/kernel`); the module itself is
    static. What a call writes beside them (the running statistics of a batch norm) is an
    `eqx.nn.State`, for `TrainStep(..., stateful=True)`.

    A flag that says whether the module trains is set by `eqx.nn.inference_mode`. It is found by its
    name: `train`, `training`, `is_training`, `is_train` are true in training, `deterministic`,
    `use_running_average` and `inference` false. It is an argument of the call, or an attribute of
    the module, `Net(train=True)`. An argument of another name is told.

    Args:
        module: The Linen module, not bound.
        variables: What `module.init` returned: `{"params": ..., "batch_stats": ...}`.
        rngs: The streams that a call draws from; see `LinenModule.__call__` for their keys.
        mutable: The collections that a call writes. Those of them that `variables` have make the
            state, and all collections but `"params"` must be among them.
        training: Keyword arguments of the call in training, `{"train": True}`. An empty dictionary
            says that there is no flag, and none is set.
        inference: The same arguments in inference, `{"train": False}`.
        axis_name: The name of the mapped axis of examples, as for `TrainStep`. A Linen batch norm
            inside of it must have it too, or see the whole batch (`batched=True`).

    Returns:
        The model, called as `model(x, key=key)`; where `variables` have one of the `mutable`
        collections, a pair: the model, called as `model(x, model_state, key=key)`, which returns
        its output and the next state, and the state before the first step.

    Raises:
        ArgumentTypeError: `module` is no Linen module, or another argument is of the wrong type.
        ArgumentValueError: `training` and `inference` do not fit each other, or the module's call.
        TreeError: `variables` lack `"params"` or have it twice, or have a collection that is not in
            `mutable`.
        MissingExtraError: Flax is not installed.

    Example:
        >>> variables = module.init(jax.random.key(0), images[:1])
        >>> model = treadle.interop.flax.from_linen(module, variables)
        >>> state = step.init(model, key=jax.random.key(1))
    """
    _require_linen(module)
    streams = _names("rngs", rngs, "dropout")
    writes = _names("mutable", mutable, "batch_stats")
    name = type(module).__name__
    collections = _collections(variables, writes)
    params = collections.pop(PARAMS)
    signature = _signature(module, None)
    modes = modes_of(training, inference, signature, name)
    unasked = training is None and inference is None
    attributes = flags_among(_own_flags(module, signature) if unasked else ())
    flagless = unasked and not modes[0] and not attributes[0]
    definition = _Definition(Held(module), streams, *modes, attributes, flagless, axis_name)
    if not collections:
        return LinenModule(params, False, definition)
    indices, model_state = stated(collections)
    return LinenModuleWithState(params, indices, False, definition), model_state


def to_linen(
    model: Door[LinenModule | LinenModuleWithState],
    model_state: Door[eqx.nn.State | None] = None,
) -> dict[str, PyTree]:
    """The variables of a Linen module: what `module.apply` takes.

    The inverse of `from_linen`, bit for bit. The arrays are those of the model: the next step
    frees them, unless they come from `state.copy()`.

    Args:
        model: What `from_linen` made, at any point of its training: `state.model`.
        model_state: Its state, where it has one: `state.model_state`.

    Returns:
        Plain dictionaries of arrays by collection: `{"params": ..., "batch_stats": ...}`.

    Raises:
        ArgumentTypeError: The model did not come from `from_linen`, or its state is missing or not
            wanted.

    Example:
        >>> variables = treadle.interop.flax.to_linen(state.model, state.model_state)
        >>> logits = module.apply(variables, images, train=False)
    """
    if not isinstance(model, (LinenModule, LinenModuleWithState)):
        raise ArgumentTypeError(
            f"`model` is a {type(model).__name__}, which `from_linen` did not make: hand over "
            f"`state.model`."
        )
    require_kept(model_state, isinstance(model, LinenModuleWithState), "to_linen")
    if isinstance(model, LinenModule) or model_state is None:
        return {PARAMS: model.params}
    return {PARAMS: model.params, **read(model.collections, model_state)}


def _require_linen(module: Any) -> None:
    linen = required("flax.linen", "flax")
    if isinstance(module, type) and issubclass(module, linen.Module):
        raise ArgumentTypeError(
            f"`module` is the class {module.__name__}: give an instance, `{module.__name__}(...)`."
        )
    if not isinstance(module, linen.Module):
        raise ArgumentTypeError(
            f"`module` is a {type(module).__name__}, no `flax.linen.Module`. NNX modules come in "
            f"with `from_nnx`, Haiku's transforms with `treadle.interop.haiku.from_haiku`."
        )


def _is_sown(collection: Any) -> bool:
    """Whether it holds tuples, as `sow` leaves them."""
    leaves = jax.tree.leaves(collection, is_leaf=lambda node: isinstance(node, tuple))
    return any(isinstance(leaf, tuple) for leaf in leaves)


def _own_flags(module: Any, signature: inspect.Signature) -> list[str]:
    """The names of the booleans that the module has of its own, and its call does not take."""
    names = [field.name for field in dataclasses.fields(module)]
    return [
        name
        for name in names
        if isinstance(getattr(module, name, None), bool) and name not in signature.parameters
    ]


def _names(argument: str, given: Any, such: str) -> tuple[str, ...]:
    is_names = isinstance(given, Sequence) and not isinstance(given, str)
    if not is_names or not all(isinstance(name, str) for name in given):
        raise ArgumentTypeError(
            f"`{argument}` (={given!r}) must be a tuple of names, such as ({such!r},)."
        )
    return tuple(given)


def _collections(variables: Any, writes: tuple[str, ...]) -> dict[str, Any]:
    """The collections as plain dictionaries of arrays.

    Raises:
        ArgumentTypeError: They are no dictionaries of arrays.
        TreeError: One is missing or unexpected.
    """
    if not isinstance(variables, Mapping):
        raise ArgumentTypeError(
            f"`variables` is a {type(variables).__name__}: give what `module.init` returned; of a "
            f"Flax `TrainState` that is `{{'params': state.params}}`, with its other collections."
        )
    plain = required("flax.core", "flax").unfreeze(variables)
    found = list(plain)
    if PARAMS not in plain:
        raise TreeError(
            f"`variables` lack the collection 'params': they have "
            f"{', '.join(map(repr, found)) or 'none'}. Parameters alone go in as "
            f"`{{'params': params}}`."
        )
    if isinstance(plain[PARAMS], dict) and PARAMS in plain[PARAMS]:
        raise TreeError(
            "`variables['params']` have 'params' inside of them, which Flax takes from no module: "
            "give what `module.init` returned as it is, not as `{'params': variables}`."
        )
    strange = [name for name in found if name != PARAMS and name not in writes]
    sown = [name for name in strange if _is_sown(plain[name])]
    if sown:
        raise TreeError(
            f"`variables` have {', '.join(map(repr, sown))}, which `module.init` sowed: results of "
            f"a call, and no variables. Leave them out of `variables`, and where the loss wants "
            f"them, call Flax in it: `out, sown = module.apply(to_linen(model), x, "
            f"mutable={sown!r})`."
        )
    if strange:
        raise TreeError(
            f"`variables` have the collections {', '.join(map(repr, strange))}, which `mutable` "
            f"(={writes!r}) does not name. What is no parameter is not trained, and lives in the "
            f"model's state: name it, `mutable={(*writes, *strange)!r}`; or leave it out of "
            f"`variables`, if the call does not need it."
        )
    for path, leaf in flatten_with_paths(plain)[0]:
        if not eqx.is_array_like(leaf):
            raise ArgumentTypeError(
                f"`variables` have a {type(leaf).__name__} at {path!r}, which is no array: "
                f"`module.init` and `read_checkpoint` return arrays."
            )
    return {name: jax.tree.map(jnp.asarray, tree) for name, tree in plain.items()}
