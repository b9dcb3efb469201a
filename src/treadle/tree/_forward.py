"""What each module inside a model does in a forward pass, found without computing anything."""

import functools
import inspect
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._errors import ArgumentTypeError
from .._flops import Flops, flops_by_mark, mark
from ._paths import join, path_of
from ._sized import is_sized
from ._tie import Tied


class Forward(NamedTuple):
    """A forward pass, by the paths of a model's modules; `""` is the model itself.

    Attributes:
        outputs: What each returned, as shapes, one per call, in order. A module that was not
            called has none.
        flops: What each did in its own code, not in that of modules that it called.
    """

    outputs: dict[str, list[PyTree]]
    flops: dict[str, Flops]


class _Recorder:
    """The outputs of one module, call by call, and the mark on its operations.

    Compared by identity, and part of its module's structure: no trace that JAX kept of another
    model is taken for this one's.
    """

    def __init__(self, number: int) -> None:
        self.number = number
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
            call = super().__call__  # pyright: ignore[reportAttributeAccessIssue]
            if self.treadle_recorder is None:
                return call(*args, **kwargs)
            with mark(self.treadle_recorder.number):
                output = call(*args, **kwargs)
            self.treadle_recorder.record(output)
            return output

    Recording.__name__, Recording.__qualname__ = cls.__name__, cls.__qualname__
    return Recording


def with_recorders(node: PyTree, path: str, recorders: dict[str, _Recorder]) -> PyTree:
    """`node` with each module that can be called replaced by one that also records."""
    if isinstance(node, Tied):
        inner = with_recorders(node.shared.pytree, path, recorders)
        return eqx.tree_at(lambda tied: tied.shared.pytree, node, inner)
    children, treedef = jtu.tree_flatten_with_path(
        node, is_leaf=lambda child: child is not node and isinstance(child, eqx.Module)
    )
    rebuilt = [
        with_recorders(child, join(path, path_of(keys)), recorders)
        if isinstance(child, eqx.Module) and child is not node
        else child
        for keys, child in children
    ]
    copy = jax.tree.unflatten(treedef, rebuilt)
    if not (isinstance(node, eqx.Module) and callable(node)):
        return copy
    cls = _recording(type(node))
    recorders[path] = _Recorder(len(recorders))
    recording = object.__new__(cls)
    # Not the constructor, which may be the user's own and do anything.
    for name, value in vars(copy).items():
        object.__setattr__(recording, name, value)
    object.__setattr__(recording, "treadle_recorder", recorders[path])
    return recording


def _abstract(leaf: Any) -> Any:
    return _struct(leaf) if is_sized(leaf) else leaf


def _require_callable(model: PyTree, example: tuple[Any, ...]) -> None:
    name = type(model).__name__
    if not callable(model):
        raise ArgumentTypeError(
            f"`model` is of type {name}, which cannot be called with `example`: "
            "leave the example out, and neither output shapes nor flops are told."
        )
    signature = inspect.signature(model)
    try:
        signature.bind(*example)
    except TypeError as error:
        raise ArgumentTypeError(
            f"`example` (= {len(example)} arguments) does not fit {name}, which is called as "
            f"`model{signature}`: {error}. Give all that it needs, a state too; keywords as in "
            "`summary(eqx.Partial(model, key=key), x)`."
        ) from error


def forward(model: PyTree, *example: Any) -> Forward:
    """What every module of `model` does when `model(*example)` is called.

    Runs in inference mode (no key is needed) and abstractly: nothing is computed. The model is
    traced once.

    Args:
        model: A pytree that can be called, such as an Equinox module.
        example: Its arguments; arrays may be `jax.ShapeDtypeStruct`s.

    Raises:
        ArgumentTypeError: `model` cannot be called, or not with such arguments.
    """
    _require_callable(model, example)
    recorders: dict[str, _Recorder] = {}
    recording = with_recorders(eqx.nn.inference_mode(model), "", recorders)
    # What is called may be no module.
    whole = _Recorder(len(recorders))

    def run(model: PyTree, *example: Any) -> PyTree:
        with mark(whole.number):
            output = model(*example)
        whole.record(output)
        return output

    # The model is an argument: its arrays may be there only in shape.
    program, _, _ = eqx.filter_make_jaxpr(run)(recording, *jax.tree.map(_abstract, example))
    recorders.setdefault("", whole)
    by_mark = flops_by_mark(program)
    return Forward(
        {path: recorder.outputs for path, recorder in recorders.items()},
        {
            path: by_mark[recorder.number]
            for path, recorder in recorders.items()
            if recorder.number in by_mark
        },
    )
