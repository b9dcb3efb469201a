"""Metrics that are still on the device: asked whether they are ready, read when somebody wants."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from .._custom_types import Metrics


class Dispatched:
    """The metrics of one dispatch: of one step, or of several along a leading axis."""

    __slots__ = ("_device", "_host")

    def __init__(self, metrics: Metrics):
        self._device = metrics
        self._host: dict[str, np.ndarray] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What was measured."""
        return tuple(self._device)

    def ready(self) -> bool:
        """Whether reading would wait for the device."""
        # All outputs of one program are there at once, so one of them speaks for all.
        return self._host is not None or next(iter(self._device.values())).is_ready()

    def host(self) -> dict[str, np.ndarray]:
        """The values as NumPy arrays: waits, copies once, and keeps the copy."""
        host = self._host
        if host is None:
            host = self._host = _fetch(self._device)
        return host


def _fetch(metrics: Metrics) -> dict[str, np.ndarray]:
    if jax.default_backend() == "cpu":
        # Ten times as fast as `device_get`, whose transfers are for devices that are elsewhere.
        return {name: np.asarray(value) for name, value in metrics.items()}
    return jax.device_get(metrics)


class StepMetrics(Mapping[str, Any]):
    """The metrics of one step: a mapping that costs nothing until it is read.

    Reading waits for the device; `ready` says whether it would. Scalars come as `float`, others as
    NumPy arrays.
    """

    __slots__ = ("_dispatched", "_index")

    def __init__(self, dispatched: Dispatched, index: int | None = None):
        self._dispatched = dispatched
        self._index = index

    @property
    def ready(self) -> bool:
        """Whether the values are there."""
        return self._dispatched.ready()

    def __getitem__(self, name: str) -> Any:
        value = self._dispatched.host()[name]
        if self._index is not None:
            value = value[self._index]
        return float(value) if np.ndim(value) == 0 else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._dispatched.names)

    def __len__(self) -> int:
        return len(self._dispatched.names)

    def __repr__(self) -> str:
        return f"StepMetrics({dict(self)})" if self.ready else "StepMetrics(not ready)"
