"""`TrainState`: what a step takes and gives, as flat leaves and a skeleton."""

import copy
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Key, PyTree

from ._custom_types import Model, PRNGKey
from ._errors import ArgumentTypeError, ConsumedStateError, TreeError
from ._model_state import state_paths
from ._random import as_key
from .tree._diff import Outlined
from .tree._match import mismatches, some
from .tree._paths import NamedLeaves, escape, flatten_with_paths, join
from .tree._stack import Stacked
from .tree._values import same_static

CONSUMED = """This `TrainState` was consumed: a step donates the state it is given, so that the
new one can live in the same memory, and the old one is gone.

    new_state, metrics = step(state, batch)
    state.model                      # gone: `state` was donated to the step
    new_state.model                  # here it is

Rebind the name, `state, metrics = step(state, batch)`; or keep one for later with
`kept = state.copy()` before the step; or build the step with `TrainStep(..., donate=False)`."""


class RawKey(eqx.Module):
    """A typed key as plain words and the name of its implementation.

    A typed key among the outputs of a compiled call is made in Python, which took 4 of the 76
    microseconds of a small step.
    """

    words: Any
    implementation: Any = eqx.field(static=True)

    @staticmethod
    def of(key: PRNGKey) -> "RawKey":
        """The words of a typed key."""
        return RawKey(jax.random.key_data(key), jax.random.key_impl(key))

    def typed(self) -> Key[Array, "..."]:
        """The key again; of an ensemble one for each member."""
        return jax.random.wrap_key_data(self.words, impl=self.implementation)


NO_FAULT = -1


def init_faults(members: int | None = None) -> jax.Array:
    """`[first step with a non-finite loss or gradient, first step with a total weight of 0]`.

    A row for each member of an ensemble.
    """
    return jnp.full((2,) if members is None else (members, 2), NO_FAULT, jnp.int32)


class Parts(NamedTuple):
    """What a state holds, with its structure."""

    # What the arrays are, by name: see the views of `TrainState`. `None` for what a step does
    # without; `faults` is the last leaf of a state.
    model: Any
    opt_state: Any
    model_state: Any
    ema_model: Any
    ema_updates: Any
    loss_scale: Any
    skipped: Any
    # Which members of an ensemble go on: `None` until one of them stops, because choosing between
    # old and new leaves costs a quarter of a small ensemble's step. `members` is a plain number.
    active: Any
    members: Any
    key: Any
    step: Any
    faults: Any


_MEMBERWISE = Parts(*(name != "step" for name in Parts._fields))
"""Which parts have an axis of members in an ensemble."""

_REPLACEABLE = ("model", "opt_state", "model_state", "ema_model", "active", "key", "step")

_TOLD = 8


class _Part(NamedTuple):
    """One part of a state: its structure, and where its leaves are.

    `slots` has an index into the flat leaves for each array, and `None` for what is static;
    `static` has the static leaves in the same places, and `kinds` what they are, because 1, 1.0 and
    `True` are equal, as are 0.0 and -0.0, and do not compile to the same program.
    """

    treedef: Any
    slots: tuple[int | None, ...]
    static: tuple[Any, ...]
    kinds: tuple[Any, ...]

    def build(self, leaves: Sequence[Any]) -> PyTree:
        # Not `eqx.combine`: the leaves may be anything that a `jax.tree.map` put there.
        merged = [
            static if slot is None else leaves[slot]
            for slot, static in zip(self.slots, self.static, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, merged)


class Skeleton:
    """Everything about a tree that is not an array: the static half of what crosses `jax.jit`.

    There is one for each structure, so comparing and hashing are by identity, which a call does at
    the speed of C and without walking the model. Make them with `Skeleton.of`.
    """

    __slots__ = ("__weakref__", "parts")

    def __init__(self, parts: tuple[_Part, ...]):
        self.parts = parts

    @staticmethod
    def of(parts: tuple[_Part, ...]) -> "Skeleton":
        """The one skeleton of these parts."""
        with _skeletons_lock:
            known = _skeletons.get(parts)
            if known is None:
                known = _skeletons[parts] = Skeleton(parts)
            return known

    def __copy__(self) -> "Skeleton":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Skeleton":
        return self

    def __repr__(self) -> str:
        return f"<skeleton of {len(self.parts)} parts>"


_skeletons: "weakref.WeakValueDictionary[tuple[_Part, ...], Skeleton]" = (
    weakref.WeakValueDictionary()
)
_skeletons_lock = threading.Lock()


def flatten_parts(
    trees: Sequence[PyTree], is_dynamic: Callable[[Any], bool] = eqx.is_array
) -> tuple[tuple[Any, ...], Skeleton]:
    """Several trees as one flat tuple of arrays, and the skeleton that gives them back.

    Raises:
        ArgumentTypeError: If a leaf that is not an array cannot be hashed.
    """
    dynamic: list[Any] = []
    parts = []
    for tree in trees:
        leaves, treedef = jax.tree.flatten(tree)
        slots: list[int | None] = []
        static: list[Any] = []
        for leaf in leaves:
            if is_dynamic(leaf):
                slots.append(len(dynamic))
                static.append(None)
                dynamic.append(leaf)
            else:
                slots.append(None)
                static.append(leaf)
        kinds = tuple(map(_kind, static))
        parts.append(_Part(treedef, tuple(slots), tuple(static), kinds))
    try:
        return tuple(dynamic), Skeleton.of(tuple(parts))
    except TypeError as error:
        raise ArgumentTypeError(_unhashable(trees, is_dynamic)) from error


def _kind(leaf: Any) -> Any:
    return (type(leaf), repr(leaf)) if isinstance(leaf, (float, complex)) else type(leaf)


def pack_args(args: PyTree) -> "Bundle":
    """What a loss takes as `args`: arrays and numbers are traced.

    A number inside a module is part of its make, as Equinox has it (a dropout's rate, which decides
    what is computed): it stays as it is.
    """

    def traced(leaf: Any) -> Any:
        plain = isinstance(leaf, (int, float, complex)) and not isinstance(leaf, bool)
        return jnp.asarray(leaf) if plain else leaf

    outside = jax.tree.map(traced, args, is_leaf=lambda node: isinstance(node, eqx.Module))
    return Bundle.pack(outside, lambda x: isinstance(x, (jax.Array, np.ndarray, np.generic)))


def _unhashable(trees: Sequence[PyTree], is_dynamic: Callable[[Any], bool]) -> str:
    for tree in trees:
        for path, leaf in flatten_with_paths(tree)[0]:
            if not is_dynamic(leaf) and not _is_hashable(leaf):
                return (
                    f"The leaf {path!r} (={leaf!r}) of type {type(leaf).__name__} is neither an "
                    f"array nor hashable, so it cannot be part of a compiled program: make it an "
                    f"array, or a hashable value."
                )
    return (
        "A static field of the tree (`eqx.field(static=True)`) cannot be hashed, so it cannot be "
        "part of a compiled program: make it hashable (a tuple for a list), or an array field."
    )


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


class Bundle:
    """Any tree on its way into a compiled program: flat arrays and a static skeleton."""

    leaves: tuple[Any, ...]
    skeleton: Skeleton

    def __init__(self, leaves: tuple[Any, ...], skeleton: Skeleton):
        self.leaves = leaves
        self.skeleton = skeleton

    @staticmethod
    def pack(tree: PyTree, is_dynamic: Callable[[Any], bool] = eqx.is_array) -> "Bundle":
        """Arrays on one side, everything else on the other."""
        return Bundle(*flatten_parts((tree,), is_dynamic))

    def unpack(self) -> PyTree:
        """The tree again."""
        (part,) = self.skeleton.parts
        return part.build(self.leaves)


class TrainState(NamedLeaves, Outlined, Stacked):
    """The state of a training run between two steps: a pytree of arrays, and of arrays only.

    Made by `TrainStep.init`. The views (`.model`, `.opt_state`, `.model_state`, `.ema_model`,
    `.key`, `.step`) are built when asked; they are borrowed, and gone with the next step, which
    donates the state's memory. `state.copy()` keeps one.

    The state of an ensemble has a leading axis of members on every leaf but `step`;
    `treadle.tree.unstack(state)` gives the members' own states.

    Its leaves lie in one flat tuple beside a static skeleton, so that passing a state to a
    compiled function never walks the model in Python.
    """

    leaves: tuple[Any, ...]
    skeleton: Skeleton

    # Not a frozen dataclass: every step makes one, and `object.__setattr__` costs.
    def __init__(self, leaves: tuple[Any, ...], skeleton: Skeleton):
        self.leaves = leaves
        self.skeleton = skeleton

    def _view(self, name: str) -> PyTree:
        self._require_alive()
        return self.skeleton.parts[Parts._fields.index(name)].build(self.leaves)

    def _has(self, name: str) -> bool:
        """Whether there is anything in a part."""
        return bool(self.skeleton.parts[Parts._fields.index(name)].slots)

    @property
    def model(self) -> Model:
        """The model.

        Raises:
            ConsumedStateError: If a step has taken this state.
        """
        return self._view("model")

    @property
    def opt_state(self) -> PyTree:
        """The optimizer's state.

        Raises:
            ConsumedStateError: If a step has taken this state.
        """
        return self._view("opt_state")

    @property
    def model_state(self) -> PyTree:
        """The state of stateful layers (an `eqx.nn.State`); `None` without `stateful=True`.

        Raises:
            ConsumedStateError: If a step has taken this state.
        """
        return self._view("model_state")

    @property
    def ema_model(self) -> Model:
        """The averaged model, in float32 at least; `None` without `ema=`.

        What is not trained is as in `model`. Before the first step it is the model itself.

        Raises:
            ConsumedStateError: If a step has taken this state.
        """
        average = self._view("ema_model")
        if average is not None:
            average = average.unpacked()
        if average is None:
            return None
        return jax.tree.map(
            lambda mean, own: own if mean is None else mean,
            average,
            self._view("model"),
            is_leaf=lambda leaf: leaf is None,
        )

    @property
    def loss_scale(self) -> jax.Array | None:
        """The scale of the next step's loss: a float32 scalar; `None` without loss scaling.

        Raises:
            ConsumedStateError: If a step has taken this state.
        """
        scaling = self._view("loss_scale")
        return None if scaling is None else scaling.scale

    @property
    def skipped(self) -> jax.Array | None:
        """How many updates were dropped: an int32 scalar; `None` where none can be.

        Raises:
            ConsumedStateError: If a step has taken this state.
        """
        return self._view("skipped")

    @property
    def active(self) -> jax.Array | None:
        """Which members of an ensemble go on training, a bool each; `None` for a single run.

        Raises:
            ConsumedStateError: If a step has taken this state.
        """
        active = self._view("active")
        if active is None and self.members is not None:
            return jnp.ones(self.members, bool)
        return active

    @property
    def members(self) -> int | None:
        """How many members an ensemble has; `None` for a single run."""
        static = self.skeleton.parts[Parts._fields.index("members")].static
        return static[0] if static else None

    @property
    def has_stopped_members(self) -> bool:
        """Whether the state keeps a bool for each member; it does once one has stopped."""
        return self._has("active")

    @property
    def key(self) -> Key[Array, "..."]:
        """The root of the training stream: it stays the same from step to step.

        An ensemble has one for each member.

        Raises:
            ConsumedStateError: If a step has taken this state.
        """
        return self._view("key").typed()

    @property
    def step(self) -> jax.Array:
        """How many steps have been taken: an int32 scalar on the device.

        Raises:
            ConsumedStateError: If a step has taken this state.
        """
        return self._view("step")

    @property
    def is_consumed(self) -> bool:
        """Whether a step has taken this state's memory."""
        return any(isinstance(leaf, jax.Array) and is_deleted(leaf) for leaf in self.leaves)

    def _require_alive(self) -> None:
        if self.is_consumed:
            raise ConsumedStateError(CONSUMED)

    def parts(self) -> Parts:
        """All of the state with its structure."""
        self._require_alive()
        return Parts(*(part.build(self.leaves) for part in self.skeleton.parts))

    @staticmethod
    def from_parts(parts: Parts) -> "TrainState":
        """A state from its parts; every array among them is a leaf of the state."""
        return TrainState(*flatten_parts(parts, eqx.is_array))

    def leaf_paths(self) -> tuple[str, ...]:
        """The path of every leaf under the names of the views, `model/layers/0/weight`."""
        found: dict[int, str] = {}
        for name, part in zip(Parts._fields, self.skeleton.parts, strict=True):
            tree = jax.tree.unflatten(part.treedef, range(len(part.slots)))
            paths = [path for path, _ in flatten_with_paths(tree)[0]]
            if name == "model_state":
                paths = state_paths(tree)
            for path, slot in zip(paths, part.slots, strict=True):
                if slot is not None:
                    # The key is one leaf to whoever looks from outside.
                    found[slot] = name if name == "key" else join(escape(name), path)
        return tuple(
            join(found[index], inside)
            for index, leaf in enumerate(self.leaves)
            for inside, _ in flatten_with_paths(leaf)[0]  # Nothing, where a filter put a `None`.
        )

    def way_out(self) -> str:
        """How more than a leaf of it is replaced."""
        return "To replace more than leaves, replace a view: `state.replace(model=...)`."

    def outline(self) -> dict[str, Any]:
        """The views as far as they are static, `None` in the place of each array."""
        nothing = [None] * len(self.leaves)
        parts = zip(Parts._fields, self.skeleton.parts, strict=True)
        return {name: part.build(nothing) for name, part in parts}

    def copy(self) -> "TrainState":
        """The same state in memory of its own, which no step on the original will take.

        Raises:
            ConsumedStateError: If a step has already taken this one.
        """
        self._require_alive()
        return TrainState(tuple(copy_leaf(leaf) for leaf in self.leaves), self.skeleton)

    def __copy__(self) -> "TrainState":
        return TrainState(self.leaves, self.skeleton)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TrainState":
        self._require_alive()
        return TrainState(copy.deepcopy(self.leaves, memo), self.skeleton)

    def __reduce__(self) -> Any:
        raise ArgumentTypeError(
            "A `TrainState` cannot be pickled: a step knows it by a skeleton that belongs to this "
            "process. Write it with `treadle.save(path, state)`, and read it with "
            "`treadle.load(path, like)`, where `like` is a state of the same make, such as "
            "`step.init(model, key=key)` gives."
        )

    def replace(self, **views: Any) -> "TrainState":
        """The state with some views exchanged, everything else kept: the optimizer's state too.

        What is handed in is copied, so it stays usable after the next step. What is kept is shared
        with this state, so a step on either consumes both.

        Args:
            views: Any of `model`, `opt_state`, `model_state`, `ema_model`, `active`, `key` and
                `step`, of the same structure, shapes and dtypes as what they replace.

        Raises:
            ArgumentTypeError: If there is no such view.
            TreeError: If structure, shapes or dtypes differ.
            ConsumedStateError: If a step has already taken this state.

        Example:
            >>> model = eqx.tree_at(lambda m: m.layers[-1].bias, state.model, new_bias)
            >>> state = state.replace(model=model)
        """
        self._require_alive()
        if "active" in views and self.members is not None and not self._has("active"):
            # The first member to stop: the state gets a leaf more, the step another program.
            return self._with_active().replace(**views)
        leaves = list(self.leaves)
        for name, value in views.items():
            # An optimizer always has a state, if maybe one without arrays.
            known = [view for view in _REPLACEABLE if self._has(view) or view == "opt_state"]
            if name not in known:
                raise ArgumentTypeError(
                    f"`replace` got {name!r}; this state has the views {', '.join(known)}."
                )
            part = self.skeleton.parts[Parts._fields.index(name)]
            old = part.build(self.leaves)
            new = _prepared(name, value, old)
            _require_fit(name, old, new)
            for slot, leaf in zip(part.slots, jax.tree.leaves(new), strict=True):
                if slot is not None:
                    leaves[slot] = copy_leaf(leaf, like=self.leaves[slot])
        if set(views) - {"active"}:
            # What went wrong before is not held against what takes its place.
            leaves[-1] = init_faults(self.members)
        return TrainState(tuple(leaves), self.skeleton)

    def _with_active(self) -> "TrainState":
        """The same arrays, and a bool for each member."""
        return TrainState.from_parts(self.parts()._replace(active=self.active))

    def __repr__(self) -> str:
        if self.is_consumed:
            return "TrainState(consumed)"
        step = self._view("step")
        count = step if not isinstance(step, jax.Array) or step.ndim else int(step)
        arrays = [leaf for leaf in self.leaves if isinstance(leaf, jax.Array)]
        size = sum(leaf.nbytes for leaf in arrays)
        model = type(self.skeleton.parts[0].build(self.leaves)).__name__
        members = "" if self.members is None else f"{self.members} members, "
        return (
            f"TrainState(step={count}, model={model}, {members}{len(self.leaves)} arrays, "
            f"{size:,} bytes)"
        )

    # -- members ------------------------------------------------------------------------------

    def unstacked(self) -> list["TrainState"]:
        """The states of an ensemble's members, each that of a single run, in memory of its own.

        Raises:
            TreeError: If it is not that of an ensemble.
            ConsumedStateError: If a step has taken this state.
        """
        if self.members is None:
            raise TreeError(
                "This `TrainState` is of a single run: there are no members to unstack. Ensembles "
                "are made with `treadle.ensemble(step, size)`."
            )
        parts = self.parts()
        return [TrainState.from_parts(member_of(parts, index)) for index in range(self.members)]

    @staticmethod
    def stacked(states: Sequence[Any]) -> "TrainState":
        """The state of an ensemble, from the states of single runs that are at the same step.

        Raises:
            TreeError: They differ in structure, shapes or dtypes, or in `step`.
        """
        first = states[0]
        if any(state.members is not None for state in states):
            raise TreeError("`stack` got the state of an ensemble, which cannot be stacked again.")
        for index, state in enumerate(states):
            _require_alike(first, state, index)
        return _combined(states, jnp.stack, len(states))


def joined(states: Sequence[TrainState]) -> TrainState:
    """Several ensembles of one structure and step as one."""
    return _combined(states, jnp.concatenate, sum(state.members or 0 for state in states))


def _combined(
    states: Sequence[TrainState], combine: Callable[[Sequence[Any]], Any], members: int
) -> TrainState:
    """The state of an ensemble from others of one structure, their arrays combined."""
    parts = [state.parts() for state in states]

    def one(*leaves: Any) -> Any:
        return combine(leaves) if eqx.is_array(leaves[0]) else leaves[0]

    whole = [
        jax.tree.map(one, *part) if axis else part[0]
        for axis, part in zip(_MEMBERWISE, zip(*parts, strict=True), strict=True)
    ]
    step = jnp.array(parts[0].step, copy=True)
    return TrainState.from_parts(Parts(*whole)._replace(members=members, step=step))


def memberwise() -> Parts:
    """Axes for `eqx.filter_vmap` over the members of an ensemble."""
    return Parts(*(eqx.if_array(0) if axis else None for axis in _MEMBERWISE))


def member_of(parts: Parts, index: int) -> Parts:
    """One member of an ensemble, copied, as the parts of a single run."""

    def take(leaf: Any) -> Any:
        return jnp.array(leaf[index], copy=True) if eqx.is_array(leaf) else leaf

    taken = [
        jax.tree.map(take, part) if axis else jax.tree.map(copy_leaf, part)
        for axis, part in zip(_MEMBERWISE, parts, strict=True)
    ]
    return Parts(*taken)._replace(active=None, members=None)


def _require_alike(first: TrainState, other: TrainState, index: int) -> None:
    """Refuses states that are not of one structure and step."""
    paths = dict(zip(first.leaf_paths(), first.leaves, strict=True))
    others = dict(zip(other.leaf_paths(), other.leaves, strict=True))
    problems = [
        f"{path!r} is {described(others.get(path))}, not {described(leaf)}"
        for path, leaf in paths.items()
        if described(others.get(path)) != described(leaf)
    ]
    problems += [f"{path!r} is unexpected" for path in others if path not in paths]
    if not problems and first.skeleton is not other.skeleton:
        problems.append("a static field or a function in it differs")
    if not problems and int(first.step) != int(other.step):
        problems.append(f"it is at step {int(other.step)}, not {int(first.step)}")
    if problems:
        raise TreeError(
            f"The state at index {index} does not fit the first, so they cannot be stacked: "
            f"{'; '.join(problems)}."
        )


def described(leaf: Any) -> str:
    """Dtype and shape, for messages."""
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"


for _node in (TrainState, Bundle):
    jtu.register_dataclass(_node, data_fields=["leaves"], meta_fields=["skeleton"])


def is_deleted(leaf: jax.Array) -> bool:
    """Whether an array's memory was given away."""
    return not isinstance(leaf, Tracer) and leaf.is_deleted()


def copy_leaf(leaf: Any, like: Any = None) -> Any:
    """An array in memory of its own: committed dtype, no weak type, the sharding kept."""
    if not eqx.is_array_like(leaf):
        return leaf
    dtype = leaf.dtype if hasattr(leaf, "dtype") else None
    if like is not None:
        dtype = like.dtype
    return jnp.array(leaf, dtype=dtype, copy=True)


def _prepared(name: str, value: Any, old: Any) -> Any:
    if name == "key":
        members = old.words.ndim > 1
        return RawKey.of(value if members else as_key(value))
    if name in ("step", "active") and old is not None:
        return jnp.asarray(value, old.dtype)
    if name == "ema_model" and old is not None:
        return old.repacked(_averages(old.unpacked(), value))
    return value


def _averages(old: PyTree, model: Model) -> PyTree:
    """The averages in a model that is to replace them: what is not trained has none.

    Raises:
        TreeError: The model does not fit.
    """
    if _same_places(old, model):
        model = jax.tree.map(
            lambda mean, own: None if mean is None else own, old, model, is_leaf=_is_none
        )
    _require_fit("ema_model", old, model)
    return jax.tree.map(jnp.asarray, model)


def _same_places(a: PyTree, b: PyTree) -> bool:
    """Whether two trees have the same structure, a `None` being a leaf."""
    return jax.tree.structure(a, is_leaf=_is_none) == jax.tree.structure(b, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _require_fit(name: str, old: PyTree, new: PyTree) -> None:
    """Refuses what cannot take the place of a view.

    Raises:
        TreeError: With the first leaves that do not fit.
    """
    problems = mismatches(old, new, ("the state", f"`{name}`"), _stands_in)
    if problems:
        raise TreeError(
            f"`{name}` does not fit the state: {some(problems, _TOLD, '; ')}. `replace` keeps the "
            f"optimizer's state, so structure, shapes and dtypes must stay. For a model that was "
            f"changed there is `step.migrate(state, model)`; for another one, start a new state "
            f"with `step.init(model, key=...)`."
        )


def _stands_in(old: Any, new: Any) -> bool:
    """Whether a leaf can take the place of another: numbers can that of arrays without axes."""
    if not eqx.is_array(old):
        return same_static(old, new)
    is_like = eqx.is_array_like(new) and jnp.shape(new) == old.shape
    return is_like and jnp.result_type(new) == old.dtype
