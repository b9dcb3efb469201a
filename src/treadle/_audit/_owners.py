"""What holds an array: which modules, and whether a call is of a method of theirs."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from .._state import TrainState
from ._leaf import Argument, Leaf
from ._private import is_module
from ._source import Frame


class Owners:
    """What lies around each array that comes in.

    Args:
        arguments: What comes in.
    """

    def __init__(self, arguments: Sequence[Argument]):
        self._around: dict[int, list[Any]] = {}
        self._of_optimizers: set[int] = set()
        for argument in arguments:
            tree = argument.tree
            for leaf, around in _leaves(tree.model if isinstance(tree, TrainState) else tree, []):
                self._around[leaf.index] = [each for each in around if is_module(each)]
                if any(_is_state_of_optimizer(each) for each in around):
                    self._of_optimizers.add(leaf.index)

    def is_of_optimizer(self, leaf: Leaf) -> bool:
        """Whether an array lies in the state of an optimizer of Optax."""
        return leaf.index in self._of_optimizers

    def is_of_library(self, leaf: Leaf) -> bool:
        """Whether an array lies in a layer of a library."""
        around = self._around.get(leaf.index, [])
        return bool(around) and type(around[-1]).__module__.split(".")[0] in _LIBRARIES

    def wrote(self, frames: Sequence[Frame], leaf: Leaf, *, direct: bool) -> bool:
        """Whether a call was made in a method of the module that holds an array.

        Args:
            frames: The way to the call.
            leaf: The array.
            direct: Whether the call takes the array as it is, for which a method of a module
                around that module will do.
        """
        method = _innermost_method(frames)
        if method is None:
            return False
        around = self._around.get(leaf.index, [])
        if around:
            return any(_is_method(method, each) for each in (around if direct else around[-1:]))
        # Flax and Haiku keep arrays outside of modules.
        return direct or _is_named(method, leaf.path)


_LIBRARIES = ("equinox", "flax", "haiku", "treadle")


def _is_state_of_optimizer(value: Any) -> bool:
    """Whether a value is the state of a transformation of Optax, such as `ScaleByAdamState`."""
    kind = type(value)
    return kind.__module__.split(".")[0] == "optax" and kind.__name__.endswith("State")


def _leaves(node: Any, around: list[Any]) -> Iterator[tuple[Leaf, list[Any]]]:
    if isinstance(node, Leaf):
        yield node, around
        return
    children = jax.tree.leaves(node, is_leaf=lambda each: each is not node)
    for child in children:
        if child is not node:
            yield from _leaves(child, [*around, node])


def _innermost_method(frames: Sequence[Frame]) -> Any:
    """The innermost code that is called on an object, or is local to one that is."""
    for frame in reversed(frames):
        code = frame.code
        # Equinox's layers are modules too; what it wraps functions in is none.
        if frame.library is not None and "/equinox/nn/" not in code.co_filename:
            continue
        own = code.co_varnames[: code.co_argcount]
        if own[:1] == ("self",) or "self" in code.co_freevars:
            return code
    return None


def _is_method(code: Any, module: Any) -> bool:
    return any(
        code.co_qualname.startswith(f"{kind.__qualname__}.")
        for kind in type(module).__mro__
        if kind is not object
    )


def _is_named(code: Any, path: str) -> bool:
    """Whether the class of a method is the one that the array's place is named after.

    Flax names `Encoder_0` what is an `Encoder`, Haiku `net/~/encoder`.
    """
    parts = code.co_qualname.replace(".<locals>", "").split(".")
    if len(parts) < 2 or "/" not in path:
        return False
    kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", parts[-2]).lower().strip("_")
    place = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", re.split(r"[/~\\]+", path)[-2]).lower()
    return re.fullmatch(rf"{re.escape(kind)}(_\d+)?", place) is not None
