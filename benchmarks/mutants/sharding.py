"""`check_sharding`: statistics and clean-ups of data that lies on several devices."""

import functools
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from treadle.testing import arrays, check_sharding, keys

from ._subject import Subject

_ROWS = arrays("float32", shape=st.sampled_from([(4,), (8,), (8, 2)]), min_value=-8, max_value=8)
_WITH_BIAS = st.tuples(_ROWS, arrays("float32", shape=(1,), min_value=1, max_value=8))


def _pieces(x: Any) -> list[np.ndarray]:
    """What each device has."""
    return [np.asarray(shard.data) for shard in x.addressable_shards]


def _each(function: Callable[[np.ndarray], Any]) -> Callable[[Any], Any]:
    """A function of each device's rows, joined again."""
    return lambda x: jnp.asarray(np.concatenate([function(piece) for piece in _pieces(x)]))


def _mesh(x: Any) -> Mesh:
    if isinstance(x.sharding, NamedSharding):
        return x.sharding.mesh
    return Mesh(np.array(list(x.devices())), ("devices",))


def _mapped(function: Callable[[Any], Any], out: PartitionSpec) -> Callable[[Any], Any]:
    """A function of the rows of one device, compiled for all."""

    @functools.cache
    def on(mesh: Mesh) -> Callable[[Any], Any]:
        spec = PartitionSpec("devices")
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=out))

    return lambda x: on(_mesh(x))(x)


_ROWS_OUT, _ONE_OUT = PartitionSpec("devices"), PartitionSpec()


def _mean_of_positive(rows: Any) -> Any:
    chosen = rows > 0
    return jnp.sum(jnp.where(chosen, rows, 0)) / jnp.maximum(jnp.sum(chosen), 1)


def _right_mean_of_positive(rows: Any) -> Any:
    chosen = rows > 0
    total = jax.lax.psum(jnp.sum(jnp.where(chosen, rows, 0)), "devices")
    return total / jnp.maximum(jax.lax.psum(jnp.sum(chosen), "devices"), 1)


def _differences(rows: np.ndarray) -> np.ndarray:
    return np.diff(rows, axis=0, prepend=rows[:1])


def _noisy(rows: Any) -> Any:
    return rows + jax.random.normal(jax.random.key(0), rows.shape)


def _sum_and_bias(args: tuple[Any, Any]) -> Any:
    """The bias lies on every device, and is counted on each."""
    return sum(jnp.asarray(piece.sum()) for part in args for piece in _pieces(part))


def _broken(
    name: str, f: Callable[[Any], Any], strategy: Any = _ROWS, **tolerances: float
) -> Subject:
    return Subject(
        "check_sharding", name, strategy, lambda tree: check_sharding(f, tree, **tolerances)
    )


SUBJECTS = (
    _broken("sorted, and where", lambda x: (jnp.sort(x, axis=0), jnp.argmax(x)))._replace(
        right=True
    ),
    _broken(
        "the mean, within a tolerance", lambda x: jnp.mean(x, axis=0), rtol=1e-6, atol=1e-6
    )._replace(right=True),
    _broken(
        "a draw from each key", lambda key: jax.random.bits(key[0], (8,)), keys(shape=(4,))
    )._replace(right=True),
    _broken(
        "the mean of what is above 0, device by device",
        _mapped(_right_mean_of_positive, _ONE_OUT),
        rtol=1e-6,
        atol=1e-6,
    )._replace(right=True),
    _broken(
        "the mean over devices of the means of what is above 0",
        _mapped(lambda rows: jax.lax.pmean(_mean_of_positive(rows), "devices"), _ONE_OUT),
        rtol=1e-6,
        atol=1e-6,
    ),
    _broken(
        "the mean over devices where their sum is meant",
        _mapped(lambda rows: jax.lax.pmean(jnp.sum(rows), "devices"), _ONE_OUT),
        rtol=1e-6,
        atol=1e-6,
    ),
    _broken("the same draw on each device", _mapped(_noisy, _ROWS_OUT), rtol=1e-6, atol=1e-6),
    _broken("only the first device is looked at", lambda x: jnp.asarray(_pieces(x)[0].max())),
    _broken("sorted on each device", _each(lambda rows: np.sort(rows, axis=0))),
    _broken("differences stop at the border of a device", _each(_differences)),
    _broken(
        "scaled by the maximum on each device",
        _each(lambda rows: rows / max(np.abs(rows).max(), 1)),
    ),
    _broken(
        "the index within a device",
        lambda x: jnp.asarray(max((piece.max(), piece.argmax()) for piece in _pieces(x))[1]),
    ),
    _broken("devices in the other order", lambda x: jnp.asarray(np.concatenate(_pieces(x)[::-1]))),
    _broken("the bias is counted on each device", _sum_and_bias, _WITH_BIAS, rtol=1e-5, atol=1e-5),
    _broken("divided by the number of devices", lambda x: x / len(x.devices())),
)
