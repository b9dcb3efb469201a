"""Whether JAX converted a value because it was told to, or because operands differ."""

from collections.abc import Sequence

from .._source import Frame
from ._calls import in_call

_CASTS = frozenset({"astype", "_astype", "convert_element_type", "asarray", "array"})
"""Functions of JAX that convert because they were told to."""

_PROMOTIONS = ("promote_", "_promote")
"""How the names of those begin that convert because operands differ."""

_QUIET = ("jax", "jaxlib", "python", "numpy", "beartype", "jaxtyping", "typeguard")
_MODELS = (None, "equinox", "flax", "haiku")
"""Whose lines count: the user's, and those of libraries of layers that the user calls."""

_LAYERS = (
    "Dense",
    "DenseGeneral",
    "Einsum",
    "Conv",
    "ConvLocal",
    "ConvTranspose",
    "MultiHeadDotProductAttention",
    "SelfAttention",
)
"""Layers of Flax with `dtype=`."""


def is_models(found: Sequence[Frame]) -> bool:
    """Whether a line of the user's, or of a layer, did it, and not an optimizer."""
    frame = next((each for each in reversed(found) if each.library not in _QUIET), None)
    if frame is None:
        return False
    if frame.library == "treadle":
        return "/nn/" in frame.code.co_filename.replace("\\", "/")
    return frame.library in _MODELS


def is_told(found: Sequence[Frame]) -> bool:
    """Whether a conversion was asked for."""
    names = []
    for frame in reversed(found):
        if frame.library == "flax":
            if frame.code.co_name == "promote_dtype":
                return not _is_flax_default(found)
        elif frame.library not in _QUIET:
            break
        else:
            names.append(frame.code.co_name)
    if any(name.startswith(_PROMOTIONS) for name in names):
        return False
    return any(name in _CASTS for name in names)


def _is_flax_default(found: Sequence[Frame]) -> bool:
    """Whether a layer of Flax has no `dtype=`, as far as the line that makes and calls it tells.

    Without one it takes the widest of what it is given.
    """
    frame = next((each for each in reversed(found) if each.library is None), None)
    if frame is None:
        return False
    layer = in_call(frame)
    told = {"dtype", "**"}
    return layer is not None and layer.name in _LAYERS and not layer.keywords & told
