"""What is the same on one device as on many."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..._errors import ArgumentValueError, TreeError
from ...tree._where import Where, leaf_mask
from ._law import Law, on_device
from ._law import __tracebackhide__ as __tracebackhide__


def check_sharding(
    f: Callable[..., Any],
    *args: Any,
    devices: Sequence[Any] | None = None,
    where: Where = eqx.is_array,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """Where the numbers lie makes no difference: `f(shard(x)) = f(x)`.

    `f` is called with all arrays on one device, and with those that can be divided spread over all
    devices along their leading axis, the others whole on each. Sums over devices may be rounded
    otherwise; give a tolerance where `f` reduces over the leading axis.

    Args:
        f: The function.
        args: Its arguments.
        devices: The devices; by default all. On a CPU,
            `XLA_FLAGS=--xla_force_host_platform_device_count=4` in the environment makes four.
        where: Which arrays are spread: a filter function, a selector, globs over the paths of the
            tuple `args` (`"0/**"`), or a prefix with bools. All by default.
        rtol: Arrays of floats may differ by `atol + rtol * |f(x)|`; by default not in a single bit.
        atol: See there.

    Raises:
        LawError: The results differ; where they lie does not count.
        ArgumentValueError: There is only one device.
        TreeError: No array can be divided by the number of devices.

    Example:
        >>> check_sharding(global_norm, grads, rtol=1e-6)
    """
    law = Law("check_sharding", rtol, atol, ignored=("sharding",))
    places = jax.devices() if devices is None else devices
    if len(places) < 2:
        raise ArgumentValueError(
            f"`devices` (={list(places)}) must be at least two, or there is nothing to compare. On "
            "a CPU, `XLA_FLAGS=--xla_force_host_platform_device_count=4`, set before JAX starts, "
            "makes four."
        )
    args = on_device(args)
    alone = jax.tree.map(lambda leaf: _put(leaf, places[0]), args)
    spread = _spread(args, leaf_mask(where, args), places)
    one = law.call("f", f, *alone)
    many = law.call("f", f, *spread)
    sides = (f"f on {len(places)} devices", "f on one")
    law.require_same(_on_host(many), _on_host(one), sides)


def _put(leaf: Any, place: Any) -> Any:
    return jax.device_put(leaf, place) if eqx.is_array(leaf) else leaf


def _is_divisible(leaf: Any, count: int) -> bool:
    return eqx.is_array(leaf) and leaf.ndim > 0 and leaf.size > 0 and leaf.shape[0] % count == 0


def _spread(args: Any, mask: Any, places: Sequence[Any]) -> Any:
    mesh = Mesh(np.array(places), ("devices",))
    count = 0

    def leaf(value: Any, yes: bool) -> Any:
        nonlocal count
        if yes and _is_divisible(value, len(places)):
            count += 1
            return _put(value, NamedSharding(mesh, PartitionSpec("devices")))
        return _put(value, NamedSharding(mesh, PartitionSpec()))

    spread = jax.tree.map(leaf, args, mask)
    if not count:
        raise TreeError(
            f"`args` has no array whose leading axis can be divided by {len(places)} devices, so "
            "nothing would be spread: give longer ones."
        )
    return spread


def _on_host(tree: Any) -> Any:
    """Everything on one device, so that it can be compared. Weak types stay."""
    return jax.tree.map(lambda leaf: _put(leaf, jax.devices()[0]), tree)
