"""What stands in a state dict: tensors of PyTorch, or arrays."""

import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from ..._errors import ArgumentTypeError
from .._leaves import form_of, holds_numbers

# Integers of the sizes of dtypes that NumPy and PyTorch do not hand to each other.
_CARRIERS = {1: ("uint8", np.uint8), 2: ("int16", np.int16)}


class Known(NamedTuple):
    """An array of a state dict but for its numbers.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return form_of(self)


def is_tensor(value: Any) -> bool:
    """Whether a value is one of PyTorch's: who has one has imported PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_torchs(value: Any) -> bool:
    """Whether a value is a tensor or a module of PyTorch's."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, (torch.Tensor, torch.nn.Module))


def known(name: str, value: Any) -> Known:
    """Shape and dtype.

    Raises:
        ArgumentTypeError: It is no array of numbers.
    """
    if is_tensor(value):
        kind = str(value.dtype).removeprefix("torch.")
        try:
            dtype = np.dtype(kind)
        except TypeError:
            dtype = None
        if dtype is None or str(value.layout) != "torch.strided":
            raise ArgumentTypeError(
                f"`state_dict` has {name!r}, a tensor of dtype {value.dtype} and layout "
                f"{value.layout}, which no array here is: make it dense, and of floats or integers."
            )
        return Known(tuple(value.shape), dtype)
    if not holds_numbers(value):
        raise ArgumentTypeError(
            f"`state_dict` has {name!r} of type {type(value).__name__}, and an array is "
            "wanted. Of a file that holds more than the weights, give the part with the weights, "
            "such as `checkpoint['state_dict']`; of a module, `module.state_dict()`."
        )
    # Whatever the order of its bytes, which is no matter of the numbers.
    return Known(tuple(value.shape), np.dtype(value.dtype).newbyteorder("="))


def same_bits(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether two arrays of one shape and dtype hold the same bits."""
    return one.tobytes() == two.tobytes()


def numbers_of(name: str, value: Any) -> np.ndarray:
    """The numbers, on the host, maybe in memory that is the tensor's.

    Raises:
        ArgumentTypeError: There are none.
    """
    if isinstance(value, jax.ShapeDtypeStruct) or (is_tensor(value) and value.is_meta):
        raise ArgumentTypeError(
            f"`state_dict` has {name!r} without numbers, only a shape: load the weights first."
        )
    dtype = known(name, value).dtype
    if not is_tensor(value):
        return np.asarray(value, dtype)
    tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if dtype.isbuiltin == 2:  # PyTorch makes NumPy arrays of NumPy's own dtypes only.
        torch = sys.modules["torch"]
        tensor = tensor.view(getattr(torch, _CARRIERS[dtype.itemsize][0]))
    return tensor.numpy().view(dtype)


def value_like(array: np.ndarray, like: Any) -> Any:
    """Numbers as a tensor where `like` is one, else as they are.

    Args:
        array: Of the dtype of `like`, in memory that nobody else has: it becomes the tensor's.
        like: What stood in the state dict.
    """
    if not is_tensor(like):
        return array
    torch = sys.modules["torch"]
    if array.dtype.isbuiltin == 2:
        carrier = array.view(_CARRIERS[array.dtype.itemsize][1])
        return torch.from_numpy(carrier).view(like.dtype)
    return torch.from_numpy(array)
