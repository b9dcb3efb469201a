"""Flax NNX modules as Equinox modules, and back."""

import dataclasses
import inspect
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PyTree

from ..._custom_types import Door
from ..._errors import ArgumentTypeError, ArgumentValueError, TreeError
from .._collections import Indices, read, require_kept, require_state, stated, written
from .._depends import depends
from .._expand import expanded, squeezed
from .._held import Held
from .._keys import is_key, shared_key, stream_keys
from .._modes import (
    FALSE_IN_TRAINING,
    TRUE_IN_TRAINING,
    Keywords,
    bound,
    is_switched,
    modes_of,
)
from .._nested import Place, at, nested
from .._norms import is_mapped
from .._packages import required
from ._norms import without_axis

_STATE = "variables"


class _Layout(NamedTuple):
    """Where the variables of one kind are, and the structure in which NNX has them."""

    places: tuple[Place, ...]
    treedef: Any

    def nested(self, state: Any) -> dict[str, Any]:
        """The values of an `nnx.State` by name."""
        return nested(self.places, jax.tree.leaves(state))

    def state(self, values: dict[str, Any]) -> Any:
        """The `nnx.State` again."""
        return jax.tree.unflatten(self.treedef, at(values, self.places))


def _layout(state: Any) -> _Layout:
    entries, treedef = jtu.tree_flatten_with_path(state)
    return _Layout(tuple(_place(keys) for keys, _ in entries), treedef)


def _place(keys: tuple[Any, ...]) -> Place:
    *outer, last = keys
    # A variable holds its array under `value`, which its users never write.
    inner = keys if not isinstance(last, jtu.GetAttrKey) or last.name != "value" else outer
    return tuple(str(getattr(key, "key", getattr(key, "name", key))) for key in inner)


@dataclasses.dataclass(frozen=True)
class _Graph:
    """All of a wrapped module that is no array."""

    name: str
    graphdef: Any
    params: _Layout
    rngs: _Layout
    rest: _Layout
    signature: Held
    training: Keywords
    inference: Keywords
    axis_name: str
    expand: bool = False

    def merged(self, params: PyTree, rngs: PyTree, rest: PyTree) -> Any:
        """An NNX module with these variables."""
        states = self.params.state(params), self.rngs.state(rngs), self.rest.state(rest)
        return required("flax.nnx", "flax").merge(self.graphdef, *states)

    def call(
        self,
        variables: tuple[PyTree, PyTree, PyTree],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        key: Any,
        inference: Door[bool],
    ) -> tuple[Any, PyTree]:
        """What the module returns, and its variables that are no parameters afterwards."""
        params, rngs, rest = variables
        inference = is_switched(inference)
        key, own = shared_key(key, self.signature.value, args)
        rngs = rngs if key is None else self._reseeded(rngs, key)
        keywords = self.inference if inference else self.training
        args, given = bound(keywords, self.signature.value, args, {**kwargs, **own}, self.name)
        if self.expand:
            args, given = expanded((args, given))

        def run(rngs: PyTree) -> tuple[Any, PyTree, bool]:
            module = self.merged(params, rngs, rest)
            if inference:
                module.eval()
            self._require_axis(module)
            before, attributes = _leaves(module, "RngState"), _attributes(module)
            out = module(*args, **given)
            after = _leaves(module, "RngState")
            left = self._left(module, attributes)
            return out, left, any(map(operator.is_not, before, after))

        out, left, drew = run(rngs)
        # A recurrent layer draws a carry of zeros, and `nnx.scan` returns new arrays in any case.
        if key is None and drew and depends(lambda rngs: run(rngs)[:2], rngs):
            raise ArgumentValueError(
                f"The call of {self.name} draws random numbers and got no key. Write "
                f"`model(x, key=key)`: the counts of NNX's own streams would stay as they are, "
                f"and each call would draw the same."
            )
        return (squeezed(out, self.name) if self.expand else out), left

    def _reseeded(self, rngs: PyTree, key: Any) -> PyTree:
        """Every stream with a key of its own, derived from the call's."""
        leaves = at(rngs, self.rngs.places)
        places = [index for index, leaf in enumerate(leaves) if is_key(leaf)]
        for index, own in zip(places, stream_keys(key, len(places)), strict=True):
            shape = leaves[index].shape
            leaves[index] = jax.random.split(own, shape) if shape else own
        return nested(self.rngs.places, leaves)

    def _require_axis(self, module: Any) -> None:
        """Refuses batch norms that would normalise one example by itself."""
        nnx = required("flax.nnx", "flax")
        if not is_mapped(self.axis_name):
            return
        for path, node in nnx.iter_graph(module):
            is_norm = isinstance(node, nnx.BatchNorm) and node.axis_name is None
            if is_norm and not node.use_running_average:
                layer = "/".join(map(str, path)) or "BatchNorm"
                raise without_axis(f"NNX's {layer}", self.axis_name)

    def _left(self, module: Any, attributes: dict[str, Held]) -> PyTree:
        """The variables that are no parameters; what was sown on the way is dropped."""
        rest = _split(module)[-1]
        if jax.tree.structure(rest) != self.rest.treedef:
            raise TreeError(
                f"The call of {self.name} made or removed variables: it has "
                f"{_listed(_layout(rest).places)}, and had {_listed(self.rest.places)}. A state "
                f"keeps its variables: make them in the module's `__init__`. (An "
                f"`nnx.Intermediate` is dropped.)"
            )
        for name, now in _attributes(module).items():
            if name in attributes and attributes[name] != now:
                raise TreeError(
                    f"The call of {self.name} changed its attribute {name!r} from "
                    f"{attributes[name]!r} to {now!r}, which would be lost: a compiled call runs "
                    f"its Python once, and a model here keeps its variables alone. As one, "
                    f"`nnx.Variable(jnp.zeros((), int))`, it lives in the model's state."
                )
        return self.rest.nested(rest)


class NNXModule(eqx.Module):
    """An NNX module with its variables, as `from_nnx` makes one.

    Attributes:
        params: The parameters (`nnx.Param`), under NNX's names: `params/linear/kernel`.
        rngs: The state of the module's own streams, for the way back; a call draws from its `key`.
        inference: Whether the call is that of `module.eval()`; what `eqx.nn.inference_mode`
            switches.
    """

    params: dict[str, Any]
    rngs: dict[str, Any]
    inference: bool
    graph: _Graph = eqx.field(static=True)

    def __call__(self, *args: Any, key: Any = None, **kwargs: Any) -> Any:
        """What the NNX module returns.

        Args:
            args: As the NNX module takes them.
            key: For the module's streams: the key itself where there is one, and
                `fold_in(key, i)` for the one at index `i` of several. A call that takes an
                argument `key` gets the key there, and its streams draw with others.
            kwargs: As the NNX module takes them; they win over those of the mode.

        Raises:
            ArgumentTypeError: The module takes other arguments.
            ArgumentValueError: It draws and has no key, or is a batch norm that sees one example.
            TreeError: The call made or removed variables.
        """
        variables = self.params, self.rngs, {}
        out, _ = self.graph.call(variables, args, kwargs, key=key, inference=self.inference)
        return out

    def per_example(self) -> "NNXModule":
        """The same model, called on one example where the module wants a batch.

        Each array goes in with an axis of length one in front, and comes out without it.
        """
        return dataclasses.replace(self, graph=dataclasses.replace(self.graph, expand=True))


class NNXModuleWithState(eqx.Module):
    """An NNX module with variables that are no parameters, as `from_nnx` makes one with a state.

    Attributes:
        params: The parameters (`nnx.Param`).
        rngs: The state of the module's own streams.
        collections: Where the state has the other variables.
        inference: Whether the call is that of `module.eval()`; what `eqx.nn.inference_mode`
            switches.
    """

    params: dict[str, Any]
    rngs: dict[str, Any]
    collections: Indices
    inference: bool
    graph: _Graph = eqx.field(static=True)

    def __call__(
        self,
        x: PyTree,
        model_state: Door[eqx.nn.State | None] = None,
        *args: Any,
        key: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, eqx.nn.State]:
        """What the NNX module returns, and the next state.

        Args:
            x: The first argument of the NNX module.
            model_state: The state of the variables that are no parameters.
            args: The further arguments of the NNX module.
            key: See `NNXModule`.
            kwargs: As the NNX module takes them; they win over those of the mode.

        Raises:
            ArgumentTypeError, ArgumentValueError, TreeError: See `NNXModule`.
        """
        model_state = require_state(model_state)
        rest = read(self.collections, model_state)[_STATE]
        variables = self.params, self.rngs, rest
        out, new = self.graph.call(variables, (x, *args), kwargs, key=key, inference=self.inference)
        return out, written(self.collections, model_state, {_STATE: new}, self.graph.name)

    def per_example(self) -> "NNXModuleWithState":
        """The same model, called on one example where the module wants a batch.

        See `NNXModule.per_example`. In training the statistics would be those of one example.
        """
        return dataclasses.replace(self, graph=dataclasses.replace(self.graph, expand=True))


def from_nnx(
    module: Any,
    *,
    training: Door[Mapping[str, Any] | None] = None,
    inference: Door[Mapping[str, Any] | None] = None,
    axis_name: str = "batch",
) -> NNXModule | tuple[NNXModuleWithState, eqx.nn.State]:
    """A Flax NNX module as an Equinox module: it trains, freezes and is saved like any other.

    The module's graph is split: its parameters are leaves under NNX's names
    (`params/linear/kernel`), its structure is static, and its other variables (`nnx.BatchStat`,
    `nnx.Cache`, your own) are an `eqx.nn.State`. The module that is handed over stays as it is.

    In training a call is that of the module as it is handed over; `eqx.nn.inference_mode` makes
    it that of `module.eval()`. What it draws comes from the key of the call, not from the streams
    of its own (`nnx.Rngs`), whose counts stay as they were. What it writes into a parameter, as
    `nnx.SpectralNorm` does, is used in this call and not kept.

    Args:
        module: The NNX module.
        training: Keyword arguments of the call in training; see `from_linen`, also for the flags
            that are found by their names.
        inference: The same arguments in inference.
        axis_name: The name of the mapped axis of examples, as for `TrainStep`. An NNX batch norm
            inside of it must have it too, or see the whole batch (`batched=True`).

    Returns:
        The model, called as `model(x, key=key)`; where it has variables that are neither
        parameters nor of random streams, a pair: the model, called as
        `model(x, model_state, key=key)`, which returns its output and the next state, and the
        state before the first step.

    Raises:
        ArgumentTypeError: `module` is no NNX module, cannot be called, or has shapes alone.
        ArgumentValueError: `training` and `inference` do not fit each other, or the module's call.
        MissingExtraError: Flax is not installed.

    Example:
        >>> model = treadle.interop.flax.from_nnx(Net(rngs=nnx.Rngs(0)))
        >>> state = step.init(model, key=jax.random.key(1))
    """
    nnx = required("flax.nnx", "flax")
    if not isinstance(module, nnx.Module):
        raise ArgumentTypeError(
            f"`module` is {_told(module)}, no instance of `flax.nnx.Module`. Linen modules come "
            f"in with `from_linen`."
        )
    name = type(module).__name__
    if not callable(module):
        raise ArgumentTypeError(
            f"`module` is a {name}, which has no `__call__`: wrap it in a module that has one."
        )
    signature = inspect.signature(module)
    modes = modes_of(training, inference, signature, name)
    own = nnx.clone(module)
    nnx.pop(own, nnx.Intermediate)
    graphdef, params, rngs, rest = nnx.split(own, nnx.Param, nnx.RngState, ...)
    layouts = _layout(params), _layout(rngs), _layout(rest)
    graph = _Graph(name, graphdef, *layouts, Held(signature), *modes, axis_name)
    states = params, rngs, rest
    for layout, state in zip(layouts, states, strict=True):
        _require_arrays(layout, state)
    own_params, own_rngs, own_rest = (
        jax.tree.map(jnp.asarray, layout.nested(state))
        for layout, state in zip(layouts, states, strict=True)
    )
    if not own_rest:
        return NNXModule(own_params, own_rngs, False, graph)
    indices, model_state = stated({_STATE: own_rest})
    return NNXModuleWithState(own_params, own_rngs, indices, False, graph), model_state


def to_nnx(
    model: Door[NNXModule | NNXModuleWithState],
    model_state: Door[eqx.nn.State | None] = None,
) -> Any:
    """A new NNX module with the variables of a model that `from_nnx` made.

    The inverse of `from_nnx`, bit for bit. The arrays are those of the model: the next step
    frees them, unless they come from `state.copy()`.

    Args:
        model: What `from_nnx` made, at any point of its training: `state.model`.
        model_state: Its state, where it has one: `state.model_state`.

    Returns:
        An `nnx.Module` of the class that was handed to `from_nnx`.

    Raises:
        ArgumentTypeError: The model did not come from `from_nnx`, or its state is missing or not
            wanted.

    Example:
        >>> net = treadle.interop.flax.to_nnx(state.model, state.model_state)
    """
    if not isinstance(model, (NNXModule, NNXModuleWithState)):
        raise ArgumentTypeError(
            f"`model` is a {type(model).__name__}, which `from_nnx` did not make: hand over "
            f"`state.model`."
        )
    require_kept(model_state, isinstance(model, NNXModuleWithState), "to_nnx")
    if isinstance(model, NNXModule) or model_state is None:
        return model.graph.merged(model.params, model.rngs, {})
    rest = read(model.collections, model_state)[_STATE]
    return model.graph.merged(model.params, model.rngs, rest)


def _split(module: Any) -> tuple[Any, ...]:
    """The states of parameters, of streams, of what was sown, and of the rest."""
    nnx = required("flax.nnx", "flax")
    return nnx.split(module, nnx.Param, nnx.RngState, nnx.Intermediate, ...)[1:]


def _leaves(module: Any, kind: str) -> list[Any]:
    nnx = required("flax.nnx", "flax")
    return jax.tree.leaves(nnx.state(module, getattr(nnx, kind)))


def _attributes(module: Any) -> dict[str, Held]:
    """The numbers and words that modules have as attributes, by path, save those of a mode."""
    nnx = required("flax.nnx", "flax")
    return {
        "/".join(map(str, (*path, name))): Held(value)
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Module)
        for name, value in vars(node).items()
        if value is None or isinstance(value, (bool, int, float, str, tuple))
        if name not in (*TRUE_IN_TRAINING, *FALSE_IN_TRAINING)
    }


def _require_arrays(layout: _Layout, state: Any) -> None:
    for place, leaf in zip(layout.places, jax.tree.leaves(state), strict=True):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ArgumentTypeError(
                f"`module` has a shape at {'/'.join(place)!r}, and no array: it is what "
                f"`nnx.eval_shape` made. Make the module itself, or restore it first."
            )


def _listed(places: tuple[Place, ...]) -> str:
    return ", ".join(repr("/".join(place)) for place in places) or "none"


def _told(module: Any) -> str:
    if isinstance(module, type):
        return f"the class {module.__name__}"
    return f"a {type(module).__name__}"
