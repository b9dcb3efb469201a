"""The names of what lies in a model's state: a batch norm's statistics by PyTorch's names."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..._errors import ArgumentTypeError
from ...tree._paths import flatten_with_paths, join, path_of

# Further behind the comma no float has digits.
_NOTHING = 2.0**-60


class Place(NamedTuple):
    """A leaf of a state.

    Attributes:
        path: Its name; of what a batch norm counts, that of the mean that goes with it.
        momentum: That of the norm, for a count of its steps.
    """

    path: str
    momentum: float | None = None


def counts_of(model: PyTree) -> set[str]:
    """The names by which PyTorch's batch norms count their steps, which nothing here needs."""
    return {join(path, "num_batches_tracked") for path, _ in _norms(model)}


def is_statistic(path: str) -> bool:
    """Whether a place is one that a batch norm's statistics have."""
    return path.rpartition("/")[2] in ("running_mean", "running_var")


def places_of(model: PyTree, model_state: Any) -> list[Place]:
    """What each leaf of a state is called, in the order of `jax.tree.leaves`.

    Raises:
        ArgumentTypeError: It is no state of Equinox's.
    """
    if not isinstance(model_state, eqx.nn.State):
        raise ArgumentTypeError(
            f"`model_state` is of type {type(model_state).__name__}, not an `eqx.nn.State`: make "
            "it with the model, `model, model_state = eqx.nn.make_with_state(Net)(...)`."
        )
    known = _markers(model)
    values, markers = model_state.tree_flatten()
    places = []
    for number, (marker, value) in enumerate(zip(markers, values, strict=True)):
        base = known.get(marker, f"state/{number}")
        for at, (inner, _) in enumerate(flatten_with_paths(value)[0]):
            if isinstance(base, tuple):
                places.append(base[at])
            else:
                places.append(Place(join(base, inner)))
    return places


def _is_stateful(node: Any) -> bool:
    return isinstance(node, eqx.nn.BatchNorm | eqx.nn.StateIndex)


def _stateful(model: PyTree) -> list[tuple[str, Any]]:
    nodes = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_stateful)[0]
    return [(path_of(keys), node) for keys, node in nodes if _is_stateful(node)]


def _norms(model: PyTree) -> list[tuple[str, eqx.nn.BatchNorm]]:
    return [(path, node) for path, node in _stateful(model) if isinstance(node, eqx.nn.BatchNorm)]


def _markers(model: PyTree) -> dict[Any, str | tuple[Place, ...]]:
    found: dict[Any, str | tuple[Place, ...]] = {}
    for path, node in _stateful(model):
        if isinstance(node, eqx.nn.StateIndex):
            found[node.marker] = path
            continue
        running = Place(join(path, "running_mean")), Place(join(path, "running_var"))
        counted = (Place(running[0].path, node.momentum),)
        for index, places in (
            (node.batch_state_index, running),
            (node.ema_state_index, running),
            (node.batch_counter, counted),
            (node.ema_first_time_index, counted),
        ):
            if index is not None:
                found[index.marker] = places
    return found


def counted(leaf: Any, momentum: float) -> np.ndarray:
    """The count with which a batch norm takes its statistics as they are.

    Equinox divides them by `1 - momentum**count`, PyTorch by nothing. So the count is one at which
    that is 1; of the other mode, which asks whether there was a step, it says that there was.
    """
    if leaf.dtype == jnp.bool_:
        return np.array(False)
    many = 1 if momentum <= 0 else math.ceil(math.log(_NOTHING) / math.log(momentum))
    return np.array(many, leaf.dtype)


def evaluated(
    arrays: Mapping[str, Any], places: Sequence[Place], leaves: Sequence[Any]
) -> dict[str, np.ndarray]:
    """The statistics that batch norms evaluate with, by name, where those are not what lies there.

    Of few steps what lies there is still near the zeros that it began with; Equinox divides by
    `1 - momentum**count` when it evaluates.
    """
    found = {}
    for place, leaf in zip(places, leaves, strict=True):
        if place.momentum is None or leaf.dtype == jnp.bool_:
            continue
        count = np.asarray(leaf)
        share = np.where(count == 0, 1.0, 1.0 - place.momentum**count)
        for name in ("running_mean", "running_var"):
            path = join(place.path.rpartition("/")[0], name)
            lies = np.asarray(arrays[path])
            found[path] = (lies / share[..., None]).astype(lies.dtype)
    return found
