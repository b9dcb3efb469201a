"""`from_torch` and `to_torch`: a model and a state dict, by one table of names."""

import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, overload

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from ..._custom_types import Door, Model
from ..._errors import ArgumentTypeError, TreeError
from ...checkpoint._storage import settled
from ...tree._match import some
from ...tree._paths import flatten_with_paths
from .._leaves import holds_numbers, leaf_like
from ._mirrored import mirrored_of
from ._plan import Plan, joined, pieces_of, planned
from ._statistics import Place, counted, counts_of, evaluated, is_statistic, places_of
from ._table import Rename, Route, routes_of
from ._tensors import is_torchs, known, numbers_of, same_bits, value_like

_log = logging.getLogger("treadle")


class _Ours(NamedTuple):
    """A model and its state, leaf by leaf."""

    named: list[tuple[str, Any]]
    treedef: Any
    places: list[Place]
    state_leaves: list[Any]
    state_treedef: Any

    def arrays(self) -> dict[str, Any]:
        """The arrays of numbers by their places."""
        found = {path: leaf for path, leaf in self.named if holds_numbers(leaf)}
        pairs = zip(self.places, self.state_leaves, strict=True)
        return found | {place.path: leaf for place, leaf in pairs if place.momentum is None}


@overload
def from_torch(
    model: Door[Model],
    state_dict: Door[Mapping[str, Any]],
    rename: Door[Rename | None] = None,
    *,
    cast: bool = False,
    strict: bool = True,
) -> Model: ...


@overload
def from_torch(
    model: Door[Model],
    state_dict: Door[Mapping[str, Any]],
    rename: Door[Rename | None] = None,
    *,
    model_state: eqx.nn.State,
    cast: bool = False,
    strict: bool = True,
) -> tuple[Model, eqx.nn.State]: ...


def from_torch(
    model: Door[Model],
    state_dict: Door[Mapping[str, Any]],
    rename: Door[Rename | None] = None,
    *,
    model_state: Door[eqx.nn.State | None] = None,
    cast: bool = False,
    strict: bool = True,
) -> Any:
    """The model with the weights of a PyTorch state dict.

    A name goes to the path of the same name, `layers.0.weight` to `layers/0/weight`, unless the
    table says otherwise. Where shapes differ only in axes of length 1 (the bias of a convolution)
    the array is put into ours; anything else is declared in the table. Every array of the model and
    every name must be accounted for.

    Args:
        model: A model of the right shapes; its leaves may be `jax.ShapeDtypeStruct`s, as
            `eqx.filter_eval_shape` makes them.
        state_dict: Arrays by name: tensors, NumPy arrays, or what
            `treadle.interop.safetensors.load` read. PyTorch need not be installed.
        rename: Places in the model by globs over their names: `"encoder.*.weight":
            "blocks/*/weight"`. What `*` (between two dots), `?` and `**` (any number of segments)
            stand for is put where the place has the same sign. A place is a path, a `Transposed`, a
            `Split` into several, or None for what is left out. The first glob that matches counts.
            Two names may go to one place, if their arrays are the same: a weight that is tied.
        model_state: The state of a model with batch norms, `eqx.nn.make_with_state` makes it. The
            statistics of a norm are the places `.../running_mean` and `.../running_var`;
            `num_batches_tracked` is left out. Other states go by the path of their `StateIndex`.
        cast: Whether numbers of another precision may become those of the model.
        strict: Whether everything must fit. If not, what does is loaded, the rest stays as it is,
            and a warning is logged.

    Returns:
        The model; with `model_state`, the model and the state.

    Raises:
        TreeError: Names do not fit: all of them, on either side, with the nearest ones; or a glob
            matches nothing.
        CheckpointError: A number does not fit the dtype that it is cast to.
        ArgumentTypeError, ArgumentValueError: An argument cannot be used.

    Example:
        >>> rename = {"fc1.*": "layers/0/*", "fc2.*": "layers/1/*"}
        >>> model = from_torch(model, torch.load("mlp.pt", weights_only=True), rename)
    """
    ours = _ours(model, model_state)
    arrays = ours.arrays()
    plan = _planned(
        model,
        arrays,
        state_dict,
        rename,
        cast,
        tied=lambda one, two: same_bits(
            numbers_of(one, state_dict[one]), numbers_of(two, state_dict[two])
        ),
    )
    _require_fit(plan, _way_out(plan, arrays, model_state is None), strict)
    filled = {}
    for name, route in plan.routes.items():
        pieces = pieces_of(numbers_of(name, state_dict[name]), route, arrays)
        for part, piece in zip(route.parts, pieces, strict=True):
            filled[part.path] = leaf_like(piece, arrays[part.path], f"`{name}` of `state_dict`")
    _require_numbers(arrays, filled)
    leaves = [filled.get(path, leaf) for path, leaf in ours.named]
    result = jax.tree.unflatten(ours.treedef, settled(leaves))
    if model_state is None:
        return result
    state = [
        _state_leaf(place, leaf, filled)
        for place, leaf in zip(ours.places, ours.state_leaves, strict=True)
    ]
    return result, jax.tree.unflatten(ours.state_treedef, settled(state))


def to_torch(
    model: Door[Model],
    state_dict: Door[Mapping[str, Any]],
    rename: Door[Rename | None] = None,
    *,
    model_state: Door[eqx.nn.State | None] = None,
    cast: bool = False,
    strict: bool = True,
) -> dict[str, Any]:
    """A PyTorch state dict with the weights of the model: `from_torch` the other way.

    Both take the same table, in the same direction, so that one is written once.

    Args:
        model: The model.
        state_dict: One of the module that it is for, `module.state_dict()`: its names, shapes and
            dtypes are those of what is returned.
        rename: As for `from_torch`.
        model_state: As for `from_torch`. The statistics that are given are those that the norms
            evaluate with.
        cast: Whether numbers of another precision may become those of the state dict.
        strict: As for `from_torch`.

    Returns:
        Names to tensors where `state_dict` has tensors, otherwise to NumPy arrays, in memory of
        their own. What the table leaves out, and `num_batches_tracked`, is that of `state_dict`.

    Raises:
        TreeError: As for `from_torch`.
        ArgumentTypeError, ArgumentValueError: An argument cannot be used.

    Example:
        >>> module.load_state_dict(to_torch(model, module.state_dict(), rename))
    """
    ours = _ours(model, model_state)
    arrays = ours.arrays()
    # What `state_dict` holds is replaced: it need not be the same.
    plan = _planned(model, arrays, state_dict, rename, cast, tied=lambda one, two: True)
    _require_fit(plan, _way_out(plan, arrays, model_state is None), strict)
    if shapes := _shapes_in(arrays):
        raise ArgumentTypeError(
            f"`model` has only shapes, and no numbers to give, at {some(list(map(repr, shapes)))}."
        )
    arrays |= evaluated(arrays, ours.places, ours.state_leaves)
    result = dict(state_dict)
    for name, route in plan.routes.items():
        like = known(name, state_dict[name])
        if route.parts:
            parts = [np.asarray(arrays[part.path]) for part in route.parts]
            array = np.array(joined(parts, route, like.shape), order="C")
            own = leaf_like(array, np.empty(like.shape, like.dtype), f"`{name}`")
            result[name] = value_like(own, state_dict[name])
    return result


def _ours(model: PyTree, model_state: Any) -> _Ours:
    if is_torchs(model) or inspect.isclass(model):
        kind = "class" if inspect.isclass(model) else "module of PyTorch's,"
        name = getattr(model, "__name__", type(model).__name__)
        raise ArgumentTypeError(
            f"`model` is the {kind} {name}: give the Equinox model, with what PyTorch's "
            "`module.state_dict()` has behind it, `from_torch(model, module.state_dict())`."
        )
    named, treedef = flatten_with_paths(model)
    places = [] if model_state is None else places_of(model, model_state)
    return _Ours(named, treedef, places, *jax.tree.flatten(model_state))


def _planned(
    model: PyTree,
    arrays: Mapping[str, Any],
    state_dict: Any,
    rename: Any,
    cast: bool,
    tied: Callable[[str, str], bool],
) -> Plan:
    if not isinstance(state_dict, Mapping):
        raise ArgumentTypeError(
            f"`state_dict` is of type {type(state_dict).__name__}: give a dictionary of names to "
            "arrays, as `module.state_dict()` or `treadle.interop.safetensors.load(path)` is."
        )
    for name in state_dict:
        if not isinstance(name, str):
            raise ArgumentTypeError(
                f"`state_dict` has the name {name!r}, and names are strings, 'layers.0.weight'."
            )
    theirs = {name: known(name, value) for name, value in state_dict.items()}
    routes = routes_of(list(theirs), rename)
    counts = counts_of(model)
    for name, route in routes.items():
        if any(part.path in counts for part in route.parts):
            routes[name] = Route((), 0)
    return planned(theirs, arrays, routes, cast, tied, mirrored_of(model))


def _way_out(plan: Plan, arrays: Collection[str], stateless: bool) -> str:
    ways = ["Say in `rename` where each goes; None leaves one out."]
    # Wrappers put a word in front of every name: "module", "model", "_orig_mod".
    cut = [path.partition("/") for path in plan.unexpected]
    for word in sorted({word for word, _, rest in cut if rest in arrays}):
        ways.append(f"`{{'{word}.**': '**'}}` takes {word!r} off the names.")
    if stateless and any(map(is_statistic, plan.unexpected)):
        ways.append(
            "The statistics of batch norms go into a state beside the model: hand over "
            "`model_state=`, of `eqx.nn.make_with_state`."
        )
    if plan.castable:
        ways.append("`cast=True` makes numbers of one precision those of another.")
    ways.append("`strict=False` takes what fits, and leaves the rest as it is.")
    return " ".join(ways)


def _require_fit(plan: Plan, way_out: str, strict: bool) -> None:
    """Tells what does not fit, in an error or in the log."""
    if not plan.lines:
        return
    lines = "\n  ".join(plan.lines)
    if strict:
        raise TreeError(f"The state dict and the model do not fit:\n  {lines}\n{way_out}")
    _log.warning("The state dict and the model fit in part; the rest stays as it is:\n  %s", lines)


def _require_numbers(arrays: Mapping[str, Any], filled: Mapping[str, Any]) -> None:
    without = [path for path in _shapes_in(arrays) if path not in filled]
    if without:
        raise TreeError(
            f"The state dict gives nothing for {some(list(map(repr, without)))}, and `model` has "
            "only shapes there: make it with numbers to load a part."
        )


def _shapes_in(arrays: Mapping[str, Any]) -> list[str]:
    """Where there are only shapes."""
    return [path for path, leaf in arrays.items() if isinstance(leaf, jax.ShapeDtypeStruct)]


def _state_leaf(place: Place, leaf: Any, filled: Mapping[str, Any]) -> Any:
    if place.momentum is None:
        return filled.get(place.path, leaf)
    if place.path not in filled:
        return leaf
    return leaf_like(counted(leaf, place.momentum), leaf, place.path)
