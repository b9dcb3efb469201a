"""`export`: a model as bytes."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
from jax import export as jax_export
from jaxtyping import PyTree

from .._checks import whole_number
from .._custom_types import Door, Example, Model
from .._errors import ArgumentTypeError, ArgumentValueError
from .._extras import required
from .._jaxpr import primitives
from .._precision import PrecisionLike, as_precision
from .._predict import outputs_of
from .._state import TrainState
from .._weights import pair_of
from ._call import require_call
from ._format import Content, packed
from ._spec import specs_of

PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    model: Door[Model | TrainState],
    example: Door[Example],
    *,
    batch: Door[str | int] = "b",
    platforms: Door[Sequence[str]] = PLATFORMS,
    inference: bool = True,
    weights: Door[str] = "model",
    precision: Door[PrecisionLike] = None,
) -> bytes:
    """A model as a program that needs none of the code that made it.

    It is StableHLO by [`jax.export`](https://docs.jax.dev/en/latest/export/index.html), the weights
    in it, for batches of any size. `treadle.load_exported` reads it; so does
    `jax.export.deserialize`, without treadle. What it computes is what `treadle.predict` does.

    Args:
        model: A model that is called on one example, `model(x)`, or any function of one example; or
            a training state. With layers that have a state, a pair `(model, model_state)`.
        example: One example, of arrays or `jax.ShapeDtypeStruct`s: only shapes and dtypes count.
        batch: The name of the size of a batch, which is left open; or a number, for one size.
        platforms: Where it may run: `"cpu"`, `"cuda"`, `"rocm"`, `"tpu"`.
        inference: Whether the model is put into inference mode (no dropout).
        weights: Whose parameters of a state are used, as for `evaluate`.
        precision: In which formats the model computes, as for `TrainStep`.

    Returns:
        The bytes of a file.

    Raises:
        ArgumentTypeError, ArgumentValueError: An argument cannot be used, or the model returns
            something other than arrays in tuples, lists and dictionaries, or calls Python.
        MissingExtraError: `flatbuffers` is not installed, with which JAX writes programs.

    Example:
        >>> data = treadle.export(state, images[0])
        >>> pathlib.Path("digits.bin").write_bytes(data)
    """
    require_flatbuffers()
    specs = specs_of(example)
    size = _size(batch)
    if isinstance(model, TrainState) and model.members is not None:
        raise ArgumentValueError(
            f"`model` is the state of {model.members} members: export one of them, or a function "
            f"that says what becomes of their outputs."
        )
    chosen = _platforms(platforms)
    pair = pair_of(model, weights)
    require_call(*pair)
    if inference:
        pair = eqx.nn.inference_mode(pair)
    policy = as_precision(precision)

    def program(inputs: PyTree) -> PyTree:
        return outputs_of(pair, inputs, None, None, policy)

    inputs = jax.tree.map(lambda leaf: _stacked(leaf, size), specs)
    try:
        exported = jax_export.export(jax.jit(program), platforms=chosen)(inputs)
        _require_plain(exported.in_tree, "`example`")
        _require_plain(exported.out_tree, "What the model returns")
        serialised = bytes(exported.serialize())
    except _REFUSALS as error:
        called = _called(program, jax.tree.map(lambda leaf: _stacked(leaf, 1), specs))
        if not called:
            raise
        raise ArgumentValueError(
            f"The model calls Python while it runs ({', '.join(called)}), as `jax.debug.print`, "
            "`jax.pure_callback` and `eqx.error_if` do, and an exported program has no Python: "
            "leave that out of what is exported."
        ) from error
    told = {
        "batch": batch,
        "versions": {"jax": jax.__version__},
        "name": getattr(pair[0], "__name__", type(pair[0]).__name__),
    }
    return packed(Content(serialised, told))


def require_flatbuffers() -> None:
    """What JAX needs to write and to read programs.

    Raises:
        MissingExtraError: It is not installed.
    """
    required("flatbuffers", extra="export", wanted_by="An exported program")


def _size(batch: Any) -> Any:
    if isinstance(batch, str):
        if not batch.isidentifier():
            raise ArgumentValueError(
                f"`batch` (={batch!r}) must be a name, such as 'b', or a number of examples."
            )
        try:
            (size,) = jax_export.symbolic_shape(batch)
        except ValueError as error:  # Some words are operations: "max", "mod".
            raise ArgumentValueError(
                f"`batch` (={batch!r}) is a word that JAX has another meaning for: choose a name, "
                "such as 'b'."
            ) from error
        return size
    return whole_number("batch", batch, minimum=1, otherwise=", or a name such as 'b'")


def _platforms(platforms: Any) -> list[str]:
    if isinstance(platforms, str):
        raise ArgumentTypeError(
            f"`platforms` (={platforms!r}) is a string: give a list of them, [{platforms!r}]."
        )
    if not isinstance(platforms, Sequence):
        raise ArgumentTypeError(f"`platforms` (={platforms!r}) must be a list, such as ['cpu'].")
    known = (*PLATFORMS, "rocm")
    chosen = list(platforms)
    for platform in chosen:
        if platform not in known:
            raise ArgumentValueError(
                f"`platforms` has {platform!r}; there are {', '.join(map(repr, known))}."
            )
    if not chosen:
        raise ArgumentValueError("`platforms` is empty: name at least one, such as 'cpu'.")
    return chosen


def _stacked(spec: jax.ShapeDtypeStruct, size: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *spec.shape), spec.dtype)


# How JAX refuses to export or to write a program.
_REFUSALS = (TypeError, ValueError, NotImplementedError)
# What goes back to Python while a program runs.
_CALLS = ("debug_callback", "debug_print", "io_callback", "pure_callback")


def _called(program: Callable[[PyTree], PyTree], inputs: PyTree) -> list[str]:
    """By what a program goes back to Python: in JAX's errors of it there is no word of that."""
    try:
        jaxpr = jax.make_jaxpr(program)(inputs).jaxpr
    # What made the export fail may be in the model; that error is raised, not this one.
    except _REFUSALS:
        return []
    return sorted(set(_CALLS).intersection(primitives(jaxpr)))


_PLAIN = (tuple, list, dict, type(None))


def _require_plain(treedef: Any, what: str) -> None:
    node = treedef.node_data()
    if node is not None and node[0] not in _PLAIN:
        raise ArgumentTypeError(
            f"{what} has a {node[0].__name__} in it, whose code an exported program would need: "
            f"wrap the model in a function that takes and returns tuples, lists and dictionaries."
        )
    for child in treedef.children():
        _require_plain(child, what)
