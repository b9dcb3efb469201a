"""PyTorch's tensors as NumPy arrays of the same type, and inside of positions."""

import sys
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

from .._custom_types import Batch
from .._errors import DataError

# Formats that NumPy lacks, and the integers that carry their bits.
_CARRIERS = {
    "bfloat16": "int16",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
}
_TENSOR = "$tensor"


def is_tensor(value: Any) -> bool:
    """Whether it is a tensor; without importing PyTorch, which who has one has done."""
    package = sys.modules.get("torch")
    return package is not None and isinstance(value, package.Tensor)


def as_array(tensor: Any) -> np.ndarray:
    """A tensor as an array of the same type and bits, on the host; in its memory where it can be.

    Raises:
        DataError: NumPy and JAX have no such type, or the tensor is sparse.
    """
    import torch  # pyright: ignore[reportMissingImports]

    plain = tensor.detach()
    name = str(plain.dtype).removeprefix("torch.")
    if plain.layout is not torch.strided:
        raise DataError(
            f"A batch has a tensor of layout {plain.layout}: make it dense, `tensor.to_dense()`."
        )
    plain = plain.cpu().resolve_conj().resolve_neg()
    if name in _CARRIERS:
        bits = plain.contiguous().view(getattr(torch, _CARRIERS[name])).numpy()
        return bits.view(getattr(ml_dtypes, name))
    try:
        return plain.numpy()
    except TypeError as error:
        raise DataError(
            f"A batch has a tensor of type {name}, which NumPy does not have: convert it first, "
            "for instance `tensor.float()`."
        ) from error


def as_batch(batch: Any) -> Batch:
    """A batch with arrays for tensors, and dictionaries for other mappings.

    Raises:
        DataError: As `as_array` raises it.
    """

    def convert(leaf: Any) -> Any:
        if is_tensor(leaf):
            return as_array(leaf)
        if isinstance(leaf, Mapping):
            return {name: as_batch(value) for name, value in leaf.items()}
        return leaf

    return jax.tree.map(convert, batch)


def encode_tensors(state: Any) -> Any:
    """A position with plain values and bytes for the tensors in it."""
    if is_tensor(state):
        array = as_array(state)
        return {
            _TENSOR: array.tobytes(),
            "dtype": str(state.dtype).removeprefix("torch."),
            "shape": list(array.shape),
        }
    if isinstance(state, dict):
        return {name: encode_tensors(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [encode_tensors(item) for item in state]
    return state


def decode_tensors(state: Any) -> Any:
    """The inverse of `encode_tensors`."""
    if isinstance(state, list):
        return [decode_tensors(item) for item in state]
    if not isinstance(state, dict):
        return state
    if _TENSOR not in state:
        return {name: decode_tensors(value) for name, value in state.items()}
    import torch  # pyright: ignore[reportMissingImports]

    flat = torch.frombuffer(bytearray(state[_TENSOR]), dtype=getattr(torch, state["dtype"]))
    return flat.reshape(state["shape"])
