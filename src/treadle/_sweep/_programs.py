"""Which settings of a sweep share a program: seen from the programs themselves."""

import hashlib
import re
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._custom_types import Args, Batch
from .._step import TrainStep
from ._grid import Setting

# Functions and objects print with where they are in memory.
_ADDRESS = re.compile(r"0x[0-9a-f]+")


class Planned(NamedTuple):
    """One setting, with the step and the model that are made of it."""

    place: int
    setting: Setting
    step: TrainStep
    make_model: Callable[..., Any]


def program_of(planned: Planned, key: Any, batch: Batch, args: Args | None) -> Hashable:
    """What two settings must have in common to be trained by one program.

    The step is traced for the setting, and nothing is run: its program with all its constants, and
    the shapes and static fields of its state. What `optax.inject_hyperparams` keeps in the state is
    no constant, so settings that differ in such numbers alone have the same program; one that the
    loss or another option uses as well makes a program of its own.
    """
    state = eqx.filter_eval_shape(lambda key: planned.step.init(planned.make_model, key=key), key)
    closed = jax.make_jaxpr(planned.step.pure)(state, batch, args=args)
    digest = hashlib.sha256(_ADDRESS.sub("", str(closed.jaxpr)).encode())
    for constant in closed.consts:
        if eqx.is_array_like(constant) and not _is_key(constant):
            array = np.asarray(constant)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(_ADDRESS.sub("", repr(constant)).encode())
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in state.leaves)
    return state.skeleton, shapes, digest.digest()


def _is_key(constant: Any) -> bool:
    dtype = getattr(constant, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def grouped(plans: list[Planned], key: Any, batch: Batch, args: Args | None) -> list[list[Planned]]:
    """The settings in groups, each of which one program trains; in the order of the grid."""
    groups: dict[Hashable, list[Planned]] = {}
    for planned in plans:
        groups.setdefault(program_of(planned, key, batch, args), []).append(planned)
    return list(groups.values())
