"""Modules that compute in another format than the code around them.

The loss gets the model it wrote for, with its parameters in the compute format. Each module of it
becomes an instance of a subclass of its own class whose `__call__` casts: the outermost call casts
its inputs on the way in and its outputs on the way out, calls inside of it cast nothing. (Haiku
does the like with `hk.mixed_precision.set_policy`; casting whole batches instead would round the
targets of a regression too.)

Layers with a state of their own (batch norm, spectral norm) compute in float32, wherever they
stand: their state is float32, and is averaged over thousands of steps.
"""

import contextvars
import functools
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ._model_state import fresh
from ._precision import Precision, cast, is_real, widened

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("inside a module", default=False)


def _is_state(node: Any) -> bool:
    return isinstance(node, eqx.nn.State)


@functools.cache
def _casting_class(cls: type, compute: Any, output: Any) -> type:
    """The subclass of a module's class whose outermost call casts; made once."""
    original: Any = cls.__call__

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _inside.get():
            return original(self, *args, **kwargs)
        args, kwargs = cast((args, kwargs), compute, is_leaf=_is_state)
        token = _inside.set(True)
        try:
            result = original(self, *args, **kwargs)
        finally:
            _inside.reset(token)
        return cast(result, output, is_leaf=_is_state)

    return _subclass(cls, call)


@functools.cache
def _wide_class(cls: type, output: Any) -> type:
    """The subclass of a stateful layer's class that computes in float32; made once."""
    original: Any = cls.__call__

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = jax.tree.leaves((args, kwargs), is_leaf=_is_state)
        dtypes = [leaf.dtype for leaf in given if is_real(leaf)]
        args, kwargs = widened((args, kwargs), is_leaf=_is_state)
        result = original(self, *args, **kwargs)
        wanted = (dtypes[0] if dtypes else None) if _inside.get() else output
        return cast(result, wanted, is_leaf=_is_state)

    return _subclass(cls, call)


def _subclass(cls: Any, call: Any) -> type:
    namespace = {
        "__call__": call,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    return type(cls)(cls.__name__, (cls,), namespace)


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
    if jax.tree_util.all_leaves([node]) or node is None or _is_state(node):
        return node
    if _is_stateful(node):
        rebuilt = fresh(widened(node))
        object.__setattr__(rebuilt, "__class__", _wide_class(type(node), precision.output))
        return rebuilt
    # One level: the children are whatever is right below.
    children, treedef = jax.tree.flatten(node, is_leaf=lambda x: x is not node)
    rebuilt = jax.tree.unflatten(treedef, [_convert(child, precision) for child in children])
    if isinstance(rebuilt, eqx.Module) and callable(rebuilt):
        casting = _casting_class(type(rebuilt), precision.compute, precision.output)
        object.__setattr__(rebuilt, "__class__", casting)
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
