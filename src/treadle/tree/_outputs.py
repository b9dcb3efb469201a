"""What each module inside a model returns, found without computing anything."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._errors import ArgumentTypeError
from ._paths import join, path_of


class _Recorder:
    """The outputs of one module, call by call.

    Compared by identity, and part of its module's structure: no trace that JAX kept of another
    model is taken for this one's.
    """

    def __init__(self) -> None:
        self.outputs: list[PyTree] = []

    def record(self, output: PyTree) -> None:
        self.outputs.append(
            jax.tree.map(_struct, eqx.filter(output, eqx.is_array, is_leaf=_is_opaque))
        )


def _is_opaque(node: Any) -> bool:
    # A layer that hands out its state, or modules, beside its result: the result is what counts.
    return isinstance(node, eqx.nn.State | eqx.Module)


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


@functools.cache  # JAX never forgets a pytree class: make one for each class, not for each model
def _recording(cls: type[eqx.Module]) -> type[eqx.Module]:
    class Recording(cls):
        treadle_recorder: _Recorder | None = eqx.field(static=True, default=None)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            # Only classes whose modules can be called come here.
            output = super().__call__(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
            if self.treadle_recorder is not None:
                self.treadle_recorder.record(output)
            return output

    Recording.__name__, Recording.__qualname__ = cls.__name__, cls.__qualname__
    return Recording


def _with_recorders(node: PyTree, path: str, recorders: dict[str, _Recorder]) -> PyTree:
    """`node` with each module that can be called replaced by one that also records."""
    children, treedef = jtu.tree_flatten_with_path(
        node, is_leaf=lambda child: child is not node and isinstance(child, eqx.Module)
    )
    rebuilt = [
        _with_recorders(child, join(path, path_of(keys)), recorders)
        if isinstance(child, eqx.Module) and child is not node
        else child
        for keys, child in children
    ]
    copy = jax.tree.unflatten(treedef, rebuilt)
    if not (isinstance(node, eqx.Module) and callable(node)):
        return copy
    cls = _recording(type(node))
    recorders[path] = _Recorder()
    recording = object.__new__(cls)
    # Not the constructor, which may be the user's own and do anything.
    for name, value in vars(copy).items():
        object.__setattr__(recording, name, value)
    object.__setattr__(recording, "treadle_recorder", recorders[path])
    return recording


def outputs(model: PyTree, *example: Any) -> dict[str, list[PyTree]]:
    """What every module of `model` returns when `model(*example)` is called, as shapes.

    Runs in inference mode (no key is needed) and abstractly: nothing is computed.

    Args:
        model: A callable Equinox module.
        example: Its arguments; arrays may be `jax.ShapeDtypeStruct`s.

    Returns:
        The path of each module to its outputs, one per call, in order. A module that was not
        called has none.

    Raises:
        ArgumentTypeError: `model` cannot be called.
    """
    if not callable(model):
        raise ArgumentTypeError(
            f"`model` is of type {type(model).__name__}, which cannot be called with `example`: "
            "leave the example out, and no output shapes are told."
        )
    recorders: dict[str, _Recorder] = {}
    recording = _with_recorders(eqx.nn.inference_mode(model), "", recorders)
    abstract = jax.tree.map(lambda x: _struct(x) if eqx.is_array_like(x) else x, example)
    eqx.filter_eval_shape(recording, *abstract)
    return {path: recorder.outputs for path, recorder in recorders.items()}
