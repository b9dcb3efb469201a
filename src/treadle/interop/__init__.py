"""Models and weights from elsewhere: each system is imported when its module is first used."""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from . import flax as flax
    from . import haiku as haiku
    from . import safetensors as safetensors
    from . import torch as torch

_SYSTEMS = ("flax", "haiku", "safetensors", "torch")


def __getattr__(name: str) -> _typing.Any:
    if name in _SYSTEMS:
        return _importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_SYSTEMS)
