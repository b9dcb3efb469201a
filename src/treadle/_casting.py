"""Modules that compute in another format than the code around them.

The loss gets the model it wrote for, with its parameters in the compute format. Each module of it
becomes an instance of a subclass of its own class whose `__call__` casts its inputs on the way in
and its outputs on the way out; in between everything is of its own class again, so that what a
module calls inside of itself casts nothing. (Haiku does the like with
`hk.mixed_precision.set_policy`; casting whole batches instead would round the targets of a
regression too.)

Layers with a state of their own (batch norm, spectral norm) compute in float32, wherever they
stand: their state is float32, and is averaged over thousands of steps.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ._model_state import fresh
from ._precision import Precision, cast, widened
from .tree._cast import is_real


class _NoHook:
    """Stands before a user's class, whose `__init_subclass__` is not meant for ours."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Nothing: neither registered nor refused."""


class _Wide:
    """A stateful layer, whose `__call__` computes in float32 and gives its input's format back."""

    __slots__ = ()


class _Outermost:
    """A module as the loss sees it, with the class that it has inside of a call."""

    __slots__ = ()
    _inner: type


def _is_state(node: Any) -> bool:
    return isinstance(node, eqx.nn.State)


@functools.cache
def _casting_class(cls: type, compute: Any, output: Any) -> type:
    """The subclass of a module's class whose call casts; made once."""
    original: Any = cls.__call__

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Modules among the arguments are inside now, too.
        inside, args, kwargs = _inner((self, args, kwargs))
        args, kwargs = cast((args, kwargs), compute, is_leaf=_is_state)
        return cast(original(inside, *args, **kwargs), output, is_leaf=_is_state)

    return _subclass(cls, (_NoHook, _Outermost), call, _inner=cls)


@functools.cache
def _wide_class(cls: type) -> type:
    """The subclass of a stateful layer's class that computes in float32; made once."""
    original: Any = cls.__call__

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = jax.tree.leaves((args, kwargs), is_leaf=_is_state)
        dtype = next((leaf.dtype for leaf in given if is_real(leaf)), None)
        args, kwargs = widened((args, kwargs), is_leaf=_is_state)
        return cast(original(self, *args, **kwargs), dtype, is_leaf=_is_state)

    return _subclass(cls, (_NoHook, _Wide), call)


def _subclass(cls: Any, mixins: tuple[type, ...], call: Any, **more: Any) -> type:
    namespace = {
        "__call__": call,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        **more,
    }
    bases = [mixin for mixin in mixins if not issubclass(cls, mixin)]
    return type(cls)(cls.__name__, (*bases, cls), namespace)


def _of_class(module: Any, cls: type) -> Any:
    """A module with the same fields, of another class."""
    # As Equinox makes one from its leaves: without `__init__`, past the frozen `__setattr__`.
    other = object.__new__(cls)
    for name, value in vars(module).items():
        object.__setattr__(other, name, value)
    return other


def _rebuilt(node: Any, change: Callable[[Any], Any]) -> Any:
    """A new node of the same kind, with each child changed."""
    # One level: the children are whatever is right below.
    children, treedef = jax.tree.flatten(node, is_leaf=lambda child: child is not node)
    return jax.tree.unflatten(treedef, [change(child) for child in children])


def _is_leaf(node: Any) -> bool:
    return node is None or _is_state(node) or jax.tree_util.all_leaves([node])


def _inner(node: Any) -> Any:
    """`node` with every module in it of the class that it has inside of a call."""
    if _is_leaf(node):
        return node
    rebuilt = _rebuilt(node, _inner)
    return _of_class(rebuilt, type(node)._inner) if isinstance(node, _Outermost) else rebuilt


def _is_stateful(node: Any) -> bool:
    """Whether a module keeps something in the model's state itself."""
    return (
        isinstance(node, eqx.Module)
        and callable(node)
        and any(isinstance(value, eqx.nn.StateIndex) for value in vars(node).values())
    )


def _keeps_format(node: Any) -> bool:
    return _is_state(node) or _is_stateful(node)


def _convert(node: Any, precision: Precision) -> Any:
    """`node` with every module in it that can be called made one that casts."""
    if _is_leaf(node):
        return node
    formats = (precision.compute, precision.output)
    if _is_stateful(node):
        wide = _wide_class(type(node))
        return _of_class(fresh(widened(node)), _casting_class(wide, *formats))
    rebuilt = _rebuilt(node, lambda child: _convert(child, precision))
    if isinstance(rebuilt, eqx.Module) and callable(rebuilt):
        return _of_class(rebuilt, _casting_class(type(rebuilt), *formats))
    return rebuilt


def computing(tree: PyTree, precision: Precision | None) -> PyTree:
    """A tree of modules as the loss is to see it: parameters cast, and calls that cast."""
    if precision is None:
        return tree
    tree = cast(tree, precision.compute, is_leaf=_keeps_format)
    if precision.compute is None and precision.output is None:
        return tree
    return _convert(tree, precision)


def computing_modules(tree: PyTree, precision: Precision | None) -> PyTree:
    """The modules in a tree as `computing` has them; other arrays stay as they are.

    What a loss takes besides its model may be a teacher, and may be numbers that it computes with.
    """

    def convert(node: Any) -> Any:
        return computing(node, precision) if isinstance(node, eqx.Module) else node

    return jax.tree.map(convert, tree, is_leaf=lambda node: isinstance(node, eqx.Module))
