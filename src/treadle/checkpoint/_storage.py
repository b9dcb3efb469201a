"""What a leaf is on disk: itself where NumPy's format can hold it, else an unsigned carrier."""

import dataclasses
import functools
import math
import re
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._compat import enable_x64
from .._errors import CheckpointError
from ..tree._paths import flatten_with_paths

# Equinox writes these with their type; ones of a subclass (an enum) are configuration.
_PYTHON = {bool: "bool", int: "int64", float: "float64", complex: "complex128"}
# Of the dtypes that NumPy's format holds without pickling: numbers, text and times.
_KINDS = "biufcSUmM"
# Numbers by their name; text, times and numbers in the other order of bytes as NumPy prints them.
_DTYPE = re.compile(r"[a-z]{3,16}\d*(_\w{1,16})?|[<>|][biufcSUmM]\d{1,9}(\[\w{1,16}\])?")


@dataclasses.dataclass(frozen=True)
class Spec:
    """A leaf but for its value.

    Attributes:
        shape: That of the leaf itself (of an array of keys, not of their data).
        dtype: NumPy's name, `key`, or `python int` and the like.
        storage: The dtype in the file; None for an integer of more than 64 bits, which stands in
            the manifest.
        key_implementation: Of typed keys, `threefry2x32` and the like.
    """

    shape: tuple[int, ...]
    dtype: str
    storage: str | None
    key_implementation: str | None = None

    def __str__(self) -> str:
        if self.dtype.startswith("python "):
            return self.dtype
        name = f"key<{self.key_implementation}>" if self.dtype == "key" else self.dtype
        return f"{name}[{','.join(map(str, self.shape))}]"

    def casts_to(self, other: "Spec") -> bool:
        """Whether both are arrays of floats, of complex numbers or of integers."""
        kinds = [_number_kind(spec.dtype) for spec in (self, other)]
        return kinds[0] is not None and kinds[0] is kinds[1]


def _number_kind(dtype: str) -> Any:
    if dtype == "key" or dtype.startswith("python "):
        return None
    # The kinds of numbers that are not NumPy's are known to JAX.
    kinds = (jnp.integer, jnp.floating, jnp.complexfloating)
    return next((kind for kind in kinds if jnp.issubdtype(np.dtype(dtype), kind)), None)


def quoted(path: str) -> str:
    """A leaf's path for a message; the tree itself has an empty one."""
    return f"`{path}`" if path else "(the tree itself)"


def spec_of(path: str, leaf: Any) -> Spec | None:
    """The spec of a leaf of a saved tree or of a `like`; None for one that is not saved.

    Raises:
        CheckpointError: If it holds data that no checkpoint can.
    """
    if type(leaf) in _PYTHON:
        fits = type(leaf) is not int or -(2**63) <= leaf < 2**63
        return Spec((), f"python {type(leaf).__name__}", _PYTHON[type(leaf)] if fits else None)
    if isinstance(leaf, (np.ndarray, np.generic)):
        return _array_spec(path, leaf.shape, leaf.dtype, equinox_reads_bfloat16=False)
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        if _holds_keys(leaf):
            return Spec(leaf.shape, "key", "uint32", str(_key_implementation(leaf)))
        return _array_spec(path, leaf.shape, np.dtype(leaf.dtype), equinox_reads_bfloat16=True)
    if _is_foreign(leaf):
        raise CheckpointError(
            f"The leaf {quoted(path)} is a {type(leaf).__module__}.{type(leaf).__qualname__}, an "
            "array of another library, which is not saved: put `np.asarray(leaf)` there."
        )
    if hasattr(leaf, "__jax_array__"):
        raise CheckpointError(
            f"The leaf {quoted(path)} is of type {type(leaf).__name__}, which stands for an array "
            "but is none: make it a pytree of its arrays, or put `jnp.asarray(leaf)` there."
        )
    return None


def _is_foreign(leaf: Any) -> bool:
    """Whether it is an array of another library: a tensor of PyTorch's, a column of pandas'."""
    return not isinstance(leaf, type) and hasattr(leaf, "__array__") and hasattr(leaf, "dtype")


def _array_spec(
    path: str, shape: tuple[int, ...], dtype: np.dtype, *, equinox_reads_bfloat16: bool
) -> Spec:
    names = _names(dtype, equinox_reads_bfloat16)
    if names is None:
        raise CheckpointError(
            f"The leaf {quoted(path)} has dtype {dtype}, which could only be pickled, and nothing "
            "is: make it numbers, or keep it out of the tree."
        )
    return Spec(shape, *names)


@functools.cache
def _names(dtype: np.dtype, equinox_reads_bfloat16: bool) -> tuple[str, str] | None:
    """Name and storage of a dtype; None for one that could only be pickled."""
    if dtype.isbuiltin == 2:  # One of ml_dtypes, which NumPy's format knows only as raw bytes.
        native = dtype == jnp.bfloat16 and equinox_reads_bfloat16
        return dtype.name, dtype.name if native else f"uint{8 * dtype.itemsize}"
    if dtype.kind not in _KINDS:
        return None
    name = dtype.name if dtype.kind in "biufc" and dtype.isnative else dtype.str
    return name, name


def is_possible(spec: Spec) -> bool:
    """Whether there can be a leaf of a spec, which anybody may have made up."""
    if spec.dtype == "key":
        return spec.storage == "uint32" and spec.key_implementation is not None
    if spec.key_implementation is not None:
        return False
    if spec.dtype.startswith("python "):
        if spec.dtype == "python int" and spec.storage is None:
            return not spec.shape
        kinds = {f"python {kind.__name__}": storage for kind, storage in _PYTHON.items()}
        return not spec.shape and spec.storage == kinds.get(spec.dtype, "")
    # Of other strings, NumPy makes structures, objects and what else there is.
    if not _DTYPE.fullmatch(spec.dtype):
        return False
    try:
        dtype = np.dtype(spec.dtype)
    except (TypeError, ValueError):  # It takes packages that are not here.
        return spec.storage in (spec.dtype, "uint8", "uint16", "uint32", "uint64")
    if dtype.isbuiltin != 2 and dtype.kind not in _KINDS:
        return False
    either = (True, False) if dtype == jnp.bfloat16 else (True,)
    return any(
        spec == _array_spec("", spec.shape, dtype, equinox_reads_bfloat16=read) for read in either
    )


def nbytes_of(spec: Spec) -> int | None:
    """How many bytes the values of a possible spec take; None if that cannot be told here.

    Of keys, a number for each: how many it is depends on the implementation.
    """
    try:
        itemsize = 0 if spec.storage is None else np.dtype(spec.storage).itemsize
    except (TypeError, ValueError):
        return None
    return math.prod(spec.shape) * itemsize


def _holds_keys(leaf: Any) -> bool:
    # Asking JAX takes ten times as long, and no dtype of NumPy is one of keys.
    known = isinstance(leaf.dtype, np.dtype)
    return not known and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_implementation(keys: Any) -> Any:
    if isinstance(keys, jax.Array):
        return jax.random.key_impl(keys)
    found: list[Any] = []
    jax.eval_shape(lambda traced: found.append(jax.random.key_impl(traced)), keys)
    return found[0]


def check_saveable(path: str, leaf: Any) -> None:
    """Raises unless the values of a leaf can be read here and now."""
    wrong = None
    if isinstance(leaf, jax.core.Tracer):
        wrong = "is being traced: save outside of `jax.jit`, `jax.vmap` and the like"
    elif isinstance(leaf, jax.ShapeDtypeStruct):
        wrong = "is a `jax.ShapeDtypeStruct`, which has no values: save the arrays themselves"
    elif isinstance(leaf, jax.Array) and leaf.is_deleted():
        wrong = "was deleted, most likely donated to a step: save the state that the step returned"
    elif isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        wrong = "lies on the devices of other processes too: gather it here before saving"
    if wrong is not None:
        raise CheckpointError(f"The leaf {quoted(path)} {wrong}.")


def to_storage(leaf: Any, spec: Spec) -> np.ndarray:
    """What is written for a leaf that has a `storage`, on the host."""
    if spec.dtype == "key":
        return _on_host(jax.random.key_data(leaf))
    if type(leaf) in _PYTHON:
        return np.asarray(leaf, spec.storage)
    array = _on_host(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)
    return array if spec.storage == spec.dtype else array.view(np.dtype(spec.storage))


def another_name(array: jax.Array) -> jax.Array:
    """The same buffers under a second name.

    An array that was read keeps the host's copy for as long as it lives: a save would leave the
    whole state in host memory.
    """
    if array.is_fully_replicated:
        return array.addressable_data(0)
    shards = [shard.data for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)


def _on_host(array: jax.Array) -> np.ndarray:
    return np.asarray(another_name(array))


def from_storage(stored: np.ndarray, like: Any) -> Any:
    """The leaf that was stored, as the kind of leaf that stands in `like`: of the same spec.

    When all leaves are there, `settled` makes arrays of those that wait for others.

    Args:
        stored: In memory that nobody else has; it may become the leaf's.
        like: A leaf.

    Raises:
        ValueError: If it is of another shape than the data of such keys.
    """
    if type(like) in _PYTHON:
        return stored.item()
    if isinstance(like, (np.ndarray, np.generic)):
        array = _with_dtype(stored, like.dtype)
        return array[()] if isinstance(like, np.generic) else array
    if _holds_keys(like):
        try:
            keys = jax.random.wrap_key_data(_on_device(stored), impl=_key_implementation(like))
        except TypeError as error:
            raise ValueError(f"uint32{list(stored.shape)} are no keys: {error}") from error
        where = _placed(like)
        return keys if where is None else jax.device_put(keys, where)
    array, where = _with_dtype(stored, np.dtype(like.dtype)), _placed(like)
    if where is None and array.nbytes <= _SMALL:
        return _Waiting(array)
    return _on_device(array, where)


# Putting one array on a device costs as much as half a megabyte does.
_SMALL = 1 << 16


@dataclasses.dataclass(frozen=True)
class _Waiting:
    """A small array that goes to the default device with many others."""

    array: np.ndarray


def settled(leaves: list[Any]) -> list[Any]:
    """What `from_storage` gave, with everything where it belongs."""
    waiting = [at for at, leaf in enumerate(leaves) if isinstance(leaf, _Waiting)]
    arrays = _on_device([leaves[at].array for at in waiting])
    for at, array in zip(waiting, arrays, strict=True):
        leaves[at] = array
    return leaves


def casted(stored: np.ndarray, spec: Spec, like: Any) -> np.ndarray:
    """What was stored, as numbers of the dtype of `like`, in the dtype that `like` is stored with.

    Raises:
        OverflowError: If a number does not fit that dtype.
    """
    wanted = spec_of("", like)
    if wanted is None or (wanted.dtype, wanted.storage) == (spec.dtype, spec.storage):
        return stored
    if wanted.dtype == spec.dtype:  # bfloat16 has a carrier in NumPy arrays, and none in JAX's.
        return stored
    numbers = _with_dtype(stored, np.dtype(spec.dtype))
    cast, lost = _converted(numbers, np.dtype(wanted.dtype))
    if np.any(lost):
        at = tuple(map(int, np.argwhere(lost)[0])) if lost.ndim else ()
        raise OverflowError(f"{numbers[at]} at {list(at)} is no {cast.dtype.name}")
    return cast


def _converted(numbers: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in another precision, and which of them that one does not have."""
    if jnp.issubdtype(dtype, jnp.integer):
        # Integers of fewer than 8 bits become each other only by way of others.
        wide = numbers.astype(np.int64) if numbers.dtype.isbuiltin == 2 else numbers
        limits = jnp.iinfo(dtype)
        lost = (wide < int(limits.min)) | (wide > int(limits.max))
        return wide.astype(dtype), np.asarray(lost)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = numbers.astype(dtype)
    wide = np.complex128 if cast.dtype.kind == "c" else np.float64
    before, after = numbers.astype(wide), cast.astype(wide)
    # Some formats have no infinity, some not even a NaN.
    lost = (np.isfinite(before) != np.isfinite(after)) | (np.isnan(before) != np.isnan(after))
    if np.isfinite(np.array(np.inf).astype(dtype).astype(wide)):  # They stop at their largest.
        lost |= np.abs(before) > float(jnp.finfo(dtype).max)
    return cast, np.asarray(lost)


def decoded(stored: np.ndarray, spec: Spec) -> Any:
    """The leaf that was stored: a NumPy array, a typed key, or a Python number.

    Raises:
        ValueError, TypeError: If there is no such dtype or implementation here, or it does not go
            with how it was stored.
    """
    if spec.dtype == "key":
        return jax.random.wrap_key_data(_on_device(stored), impl=spec.key_implementation)
    kinds = {f"python {kind.__name__}": kind for kind in _PYTHON}
    if spec.dtype in kinds:
        return kinds[spec.dtype](stored.item())
    dtype = np.dtype(spec.dtype)
    if dtype.hasobject or dtype.itemsize != stored.dtype.itemsize:
        raise TypeError(f"{stored.dtype} does not carry {dtype}")
    return _with_dtype(stored, dtype)


def _with_dtype(stored: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return stored if stored.dtype == dtype else stored.view(dtype)


def _placed(like: Any) -> Any:
    """Where `like` wants the leaf to lie; None where it does not say."""
    if isinstance(like, jax.ShapeDtypeStruct):
        return like.sharding
    return like.sharding if like.committed else None


def _on_device(array: Any, where: Any = None) -> Any:
    """An array, or a list of them, as JAX's."""
    # 64 bits stay 64 bits, whatever the mode: `like` has them. On CPU it may stay where it is; the
    # first step that it is donated to then takes new memory, and is as long as a copy longer.
    with enable_x64(True):
        return jax.device_put(array, where)


def storage_like(tree: PyTree) -> PyTree:
    """The `like` with which plain `eqx.tree_deserialise_leaves` reads the leaves of `tree`.

    Leaves that NumPy's format cannot hold are unsigned integers in the file: typed keys their
    data, float8 and 4-bit numbers their bits. Integers of more than 64 bits are not in the file
    but in the manifest, and are strings here, which Equinox leaves as they are.

    Args:
        tree: The tree that was saved, or one like it.

    Returns:
        The same tree with those leaves replaced.

    Example:
        >>> treadle.save("model", model)
        >>> like = storage_like(model)
        >>> carriers = eqx.tree_deserialise_leaves("model/leaves-00000.eqx", like)
    """
    named, treedef = flatten_with_paths(tree)
    return jtu.tree_unflatten(treedef, [_stored_like(path, leaf) for path, leaf in named])


def _stored_like(path: str, leaf: Any) -> Any:
    spec = spec_of(path, leaf)
    if spec is None:
        return str(leaf) if eqx.is_array_like(leaf) else leaf
    if spec.storage is None:
        return hex(leaf)
    if spec.dtype == "key":
        return jax.eval_shape(jax.random.key_data, leaf)
    if spec.storage == spec.dtype or type(leaf) in _PYTHON:
        return leaf
    if isinstance(leaf, np.generic):
        return np.dtype(spec.storage).type(0)
    if isinstance(leaf, np.ndarray):
        return np.empty(spec.shape, spec.storage)
    return jax.ShapeDtypeStruct(spec.shape, spec.storage)
