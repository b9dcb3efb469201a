"""Two places of a model that hold one array."""

import dataclasses
import difflib
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._custom_types import Door, Model
from .._errors import ArgumentTypeError, ArgumentValueError, TreeError
from ._diff import Outlined
from ._lora_layer import LoRA
from ._match import alike, mismatches, some, told
from ._paths import NamedLeaves, opened, paths_of_structure
from ._sized import is_sized

Source: TypeAlias = str | tuple[str, Callable[[Any], Any]]
"""A path, or one with a function of what is there."""


class TiedTo(eqx.Module):
    """Stands where something was that is tied to another place. It holds nothing."""

    path: str = eqx.field(static=True)


class _Tie(NamedTuple):
    target: str
    source: str
    function: Callable[[Any], Any] | None

    def value(self, tree: PyTree) -> Any:
        """What belongs to the target."""
        found = _at(tree, self.source)
        return found if self.function is None else self.function(found)


# Neither leaves nor modules: equal ties make equal structures, and nothing wraps their calls.
@jtu.register_static
@dataclasses.dataclass(frozen=True)
class _Targets:
    """The `where` of an `eqx.nn.Shared`."""

    ties: tuple[_Tie, ...]

    def __call__(self, tree: PyTree) -> tuple[Any, ...]:
        return tuple(_at(tree, tie.target) for tie in self.ties)


@jtu.register_static
@dataclasses.dataclass(frozen=True)
class _Values:
    """The `get` of an `eqx.nn.Shared`."""

    ties: tuple[_Tie, ...]

    def __call__(self, tree: PyTree) -> tuple[Any, ...]:
        return tuple(tie.value(tree) for tie in self.ties)


def _segments(path: str) -> list[str]:
    return path.split("/") if path else []


def _child(node: PyTree, name: str) -> Any:
    """What a node has by that name.

    Raises:
        KeyError: It has nothing of that name.
    """
    if isinstance(node, Tied):
        return _child(node.shared.pytree, name)
    children = opened(node).children
    if name not in children and isinstance(node, LoRA):
        # An adapter put on later leaves the names valid, and its weight is the changed one.
        return node.weight if name == "weight" else _child(node.base, name)
    return children[name]


def _at(tree: PyTree, path: str) -> Any:
    """The leaf or part of `tree` at a path.

    Raises:
        KeyError: There is none.
    """
    for name in _segments(path):
        tree = _child(tree, name)
    return tree


class Tie(eqx.Module):
    """Stands, in the outline of what is tied, where something is tied to another place."""

    source: str = eqx.field(static=True)
    function: Callable[[Any], Any] | None = eqx.field(static=True)


class Tied(eqx.Module, NamedLeaves, Outlined):
    """A model some of whose leaves are one: what `treadle.tree.tie` makes.

    It is called as the model is, with the same arguments. To everything else it is the model
    without what was tied: paths, counts, optimizers and checkpoints know the one array, at its one
    place, under the model's own names.

    Attributes:
        shared: The `eqx.nn.Shared` that holds the model.
    """

    shared: eqx.nn.Shared

    @property
    def model(self) -> Any:
        """The model with everything in its place, for its attributes and methods."""
        # Not by calling `shared`: to a precision policy that is a module's call, whose outputs
        # are cast to the format of outputs, and here they would be the weights.
        tree = self.shared.pytree
        return eqx.tree_at(self.shared.where, tree, self.shared.get(tree))

    @property
    def ties(self) -> dict[str, Source]:
        """What is tied to what, as `treadle.tree.tie` takes it."""
        where: Any = self.shared.where
        return {
            tie.target: tie.source if tie.function is None else (tie.source, tie.function)
            for tie in where.ties
        }

    def leaf_paths(self) -> tuple[str, ...]:
        """The model's own names for what is left."""
        tree = self.shared.pytree
        return paths_of_structure(jax.tree.structure(tree), tree)

    def way_out(self) -> str:
        """How more than a leaf of it is replaced."""
        return (
            "To replace more than leaves, take it apart first: "
            "`treadle.tree.tie(treadle.tree.replace(treadle.tree.untie(tied), ...), tied.ties)`."
        )

    def outline(self) -> PyTree:
        """The model, `None` in the place of each array, and a `Tie` for what is tied."""
        where: Any = self.shared.where
        emptied = jax.tree.map(lambda _: None, self.shared.pytree)
        return eqx.tree_at(
            where, emptied, [Tie(tie.source, tie.function) for tie in where.ties], is_leaf=_is_none
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model."""
        return self.model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # Asked for what is not there; for `model` where reading it failed, which is told again.
        if name == "model":
            return Tied.model.__get__(self)
        hint = "" if name.startswith("__") else f": ask the model, which is `tied.model.{name}`"
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}.")


def _is_none(node: Any) -> bool:
    return node is None


def _is_tied(node: Any) -> bool:
    return isinstance(node, Tied)


def _is_hole(node: Any) -> bool:
    return isinstance(node, TiedTo)


def _read(links: Any) -> list[_Tie]:
    """What the user handed in, as ties.

    Raises:
        ArgumentTypeError: It is not a dictionary from path to path, or to path and function.
        ArgumentValueError: It is empty.
    """
    if not isinstance(links, Mapping):
        raise ArgumentTypeError(
            f"`links` is a {type(links).__name__}: give a dictionary from the path that is tied to "
            f"the path that it is tied to, such as {{'head/weight': 'embedding/weight'}}."
        )
    if not links:
        raise ArgumentValueError("`links` is empty: there is nothing to tie.")
    return [_as_tie(target, source) for target, source in links.items()]


def _as_tie(target: Any, source: Any) -> _Tie:
    path, function = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    is_function = function is None or callable(function)
    if not isinstance(target, str) or not isinstance(path, str) or not is_function:
        raise ArgumentTypeError(
            f"`links` holds {target!r}: {source!r}, and takes a path to a path, or to a path and "
            f"a function: {{'head/weight': ('embedding/weight', jnp.transpose)}}."
        )
    try:
        hash(function)
    except TypeError as error:
        raise ArgumentTypeError(
            f"`links[{target!r}]` has a function that cannot be hashed (={function!r}). It becomes "
            f"part of the model's structure: give a function defined by `def`."
        ) from error
    return _Tie(target, path, function)


def _holds_tied(part: PyTree) -> bool:
    return any(map(_is_hole, jax.tree.leaves(part, is_leaf=_is_hole)))


def _require_part(model: Model, path: str) -> Any:
    """What is at a path.

    Raises:
        TreeError: There is nothing, or something of it was tied before.
    """
    part = model
    for name in _segments(path):
        try:
            part = _child(part, name)
        except KeyError:
            raise TreeError(_unknown(model, path)) from None
        if _is_hole(part):
            break
    if _holds_tied(part):
        raise TreeError(
            f"`links` has the path {path!r}, where something is tied to another place already: "
            f"tie to that place, or take the model apart first, with `treadle.tree.untie`."
        )
    return part


def _unknown(model: Model, path: str) -> str:
    leaves = paths_of_structure(jax.tree.structure(model), model)
    parts = {
        "/".join(names[:stop])
        for names in map(_segments, leaves)
        for stop in range(1, len(names) + 1)
    }
    near = difflib.get_close_matches(path, sorted(parts), n=3, cutoff=0.3) or list(leaves[:3])
    hint = f"The nearest are {', '.join(map(repr, near))}." if near else "There is nothing in it."
    return f"`model` ({type(model).__name__}) has nothing at {path!r}. {hint}"


def _is_inside(path: str, outer: str) -> bool:
    parts = _segments(outer)
    return _segments(path)[: len(parts)] == parts


def _overlap(a: str, b: str) -> bool:
    return _is_inside(a, b) or _is_inside(b, a)


def _refuse_overlaps(ties: list[_Tie]) -> None:
    """Every target is to be gone, and every source to be there.

    Raises:
        TreeError: A target and a source, or two targets, are one or lie one inside the other.
    """
    for tie in ties:
        if tie.target == tie.source:
            raise TreeError(f"`links` ties {tie.target!r} to itself.")
        if _overlap(tie.target, tie.source):
            raise TreeError(
                f"`links` ties {tie.target!r} to {tie.source!r}, and one is inside the other."
            )
    for tie, other in itertools.permutations(ties, 2):
        if _overlap(tie.target, other.source):
            raise TreeError(
                f"`links` ties {other.target!r} to {other.source!r}, and {tie.target!r} to "
                f"{tie.source!r}: what is tied is no source for others. Tie both to a place that "
                f"is tied to nothing."
            )
        if _overlap(tie.target, other.target):
            raise TreeError(
                f"`links` ties both {tie.target!r} and {other.target!r}, and one is inside the "
                f"other: tie the outer one alone."
            )


def _itself(part: Any) -> Any:
    return part


def _require_fit(tie: _Tie, source: Any, target: Any) -> None:
    """Refuses a source, as its function makes it, that cannot stand in for the target.

    Raises:
        TreeError: It has another structure, shape or dtype.
    """
    value = eqx.filter_eval_shape(tie.function or _itself, source)
    target = eqx.filter_eval_shape(_itself, target)
    if is_sized(value) and is_sized(target):
        fits = alike(value, target)
        how = f"{told(value)} in the place of {told(target)}"
    else:
        problems = mismatches(value, target, ("the source", "the target"))
        fits, how = not problems, some(problems, separator="; ")
    if fits:
        return
    hint = " A function may stand between them, as `jnp.transpose`." if tie.function is None else ""
    raise TreeError(
        f"`links` ties {tie.target!r} to {_source_text(tie)}, which does not fit: {how}.{hint}"
    )


def _source_text(tie: _Tie) -> str:
    if tie.function is None:
        return repr(tie.source)
    return f"{getattr(tie.function, '__name__', tie.function)} of {tie.source!r}"


def tie(model: Model, links: Door[Mapping[str, Source]]) -> Tied:
    """`model` with some of its places tied to others: one array, used twice.

    Each target is taken out of the model, and filled from its source whenever the model is called.
    So there is one array, which counts once, has one place in the optimizer's state and in
    checkpoints, and whose gradient is the sum over both uses. What was at the target is dropped:
    the source's value counts.

    Models tied alike have equal structures, and share compiled programs.

    Args:
        model: Any pytree; a module, where it is to be called.
        links: The path of each target to that of its source, as `treadle.tree.paths` has them:
            `{"head/weight": "embedding/weight"}`. Both may be whole parts, such as layers, and
            several targets may have one source. With a function, `("embedding/weight",
            jnp.transpose)`, the target is the function of the source; functions are part of the
            structure, and equal only if they are the same object.

    Returns:
        A `treadle.tree.Tied`, called as the model is. Make the optimizer and the step for it, not
        for `model`.

    Raises:
        TreeError: There is nothing at a path (with the nearest that there are); shapes, dtypes or
            structures at the two ends differ; or targets and sources overlap: one tied to itself,
            or to what is tied, or inside of another.
        ArgumentTypeError: `links` is not a dictionary as above.
        ArgumentValueError: `links` is empty.

    Example:
        >>> model = treadle.tree.tie(model, {"head/weight": "embedding/weight"})
        >>> state = treadle.TrainStep(loss_fn, optimizer).init(model, key=key)
        >>> model = treadle.tree.untie(state.model)

    References:
        Press and Wolf, "Using the Output Embedding to Improve Language Models", EACL 2017,
        arXiv:1608.05859. The sharing itself is `eqx.nn.Shared`.
    """
    ties = _read(links)
    ends = [(_require_part(model, t.source), _require_part(model, t.target)) for t in ties]
    _refuse_overlaps(ties)
    for one, (source, target) in zip(ties, ends, strict=True):
        _require_fit(one, source, target)
    targets, values = _Targets(tuple(ties)), _Values(tuple(ties))
    shared = eqx.nn.Shared(eqx.tree_at(targets, model, values(model)), targets, values)
    # `Shared` leaves objects behind that are equal to nothing else, and leaves of the tree.
    emptied = eqx.tree_at(targets, shared.pytree, [TiedTo(one.source) for one in ties])
    return Tied(eqx.tree_at(lambda node: node.pytree, shared, emptied))


def untie(model: Model) -> Model:
    """The model that `treadle.tree.tie` was given, with both places filled.

    It has the structure of that one. Its two places hold the same array, which a further training
    treats as two.

    Args:
        model: What `tie` returned, or a tree in which that stands.

    Raises:
        TreeError: Nothing in `model` is tied.

    Example:
        >>> treadle.save("model", treadle.tree.untie(state.model))
    """
    if not any(map(_is_tied, jax.tree.leaves(model, is_leaf=_is_tied))):
        raise TreeError(
            f"`model` ({type(model).__name__}) has nothing tied in it: what `treadle.tree.tie` "
            f"returned, or a step trained from it, has."
        )
    return _untied(model)


def _untied(tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda node: _untied(node.model) if _is_tied(node) else node, tree, is_leaf=_is_tied
    )
