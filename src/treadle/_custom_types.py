"""The field's names for the shapes and types that cross module borders."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt32

_T = TypeVar("_T")

Model: TypeAlias = PyTree
"""Any pytree; in practice an `equinox.Module`."""

Batch: TypeAlias = PyTree
"""A pytree of arrays that share their leading (example) axis."""

Example: TypeAlias = PyTree
"""One element of a batch: the same tree without the leading axis."""

Args: TypeAlias = PyTree
"""What is neither batched nor trained: a teacher, an annealed weight."""

PRNGKey: TypeAlias = Key[Array, ""]
"""A typed key, as `jax.random.key` makes them."""

Scalar: TypeAlias = Float[Array, ""]
Counter: TypeAlias = Int[Array, ""]
Flag: TypeAlias = Bool[Array, ""]

Metrics: TypeAlias = dict[str, Any]
"""Names to device arrays (scalars, unless the loss returned a `treadle.Sum` of an array)."""

LossFn: TypeAlias = Callable[..., Any]
MetricFn: TypeAlias = Callable[..., Any]
KeyLike: TypeAlias = Key[Array, ""] | UInt32[Array, " words"]

# `Door[T]` is `T` for type checkers, and anything at run time: what users hand in is checked by our
# own code, which tells them what is wrong in their terms; a run-time type check would answer first.
if TYPE_CHECKING:
    Door: TypeAlias = Annotated[_T, "checked at the door"]
else:

    class Door:
        """An annotation that run-time type checkers leave alone."""

        def __class_getitem__(cls, item: object) -> object:
            return Any
