"""What Equinox's layers take, and what one of them got."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._raised import Raised, is_array


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """A layer of Equinox that was called with what it cannot take.

    Attributes:
        name: The layer's class.
        wanted: What it takes, in words.
        shape: The shape it takes; `None` in it stands for any length.
        given: What it got.
        fix: What to do where it is not a matter of a batch.
    """

    name: str
    wanted: str
    shape: tuple[int | None, ...]
    given: Any
    fix: str

    @property
    def axes_in_front(self) -> int:
        """How many axes are left over in front of a shape that fits; 0 where it does not fit."""
        extra = len(self.given.shape) - len(self.shape)
        if extra <= 0:
            return 0
        rest = self.given.shape[extra:]
        fits = all(
            want is None or want == have for want, have in zip(self.shape, rest, strict=True)
        )
        return extra if fits else 0

    def says_shape(self, message: str) -> bool:
        """Whether the layer itself refused what it got."""
        return any(text in message for text in _REFUSALS)


_REFUSALS = (
    "needs to have rank",
    "must satisfy the invariant `shape == x.shape`",
    "should be called with a scalar index `x`",
)


def layer_call(raised: Raised) -> LayerCall | None:
    """The innermost layer of `equinox.nn` on the way to an error, and what it got."""
    for call in reversed(raised.calls):
        if call.library is None:
            return None
        names = call.names
        layer = names.get("self")
        if call.library == "equinox" and isinstance(layer, eqx.Module) and call.name == "__call__":
            given = names.get("x", names.get("input"))
            return _described(layer, _as_given(raised, layer, given)) if is_array(given) else None
    return None


def _as_given(raised: Raised, layer: Any, given: Any) -> Any:
    """What a layer got: a convolution adds an axis in front before it computes."""
    convolves = isinstance(layer, eqx.nn.Conv | eqx.nn.ConvTranspose)
    if convolves and not any(text in raised.message for text in _REFUSALS):
        return jax.ShapeDtypeStruct(given.shape[1:], given.dtype)
    return given


def _described(layer: Any, given: Any) -> LayerCall | None:
    name = type(layer).__name__

    def made(wanted: str, shape: tuple[int | None, ...], fix: str) -> LayerCall:
        return LayerCall(name, wanted, shape, given, fix)

    if isinstance(layer, eqx.nn.Linear):
        size = layer.in_features
        if size == "scalar":
            return made("a single number, shape ()", (), "`x[0]`, or `in_features=1`.")
        had = int(np.prod(given.shape))
        fix = f"`eqx.nn.Linear({had}, {layer.out_features}, key=key)` takes this"
        if len(given.shape) > 1:
            fix = f"flatten it first, `x.ravel()`; {fix}"
        if had == size:
            fix = "flatten it first: `x.ravel()`"
        return made(f"one vector, shape ({size},),", (int(size),), f"{fix}.")
    if isinstance(layer, eqx.nn.Conv | eqx.nn.ConvTranspose):
        count, channels = layer.num_spatial_dims, layer.in_channels
        letters = ", ".join(("length",) if count == 1 else ("depth", "height", "width")[-count:])
        wanted = f"one example, channels first, shape ({channels}, {letters}),"
        return made(wanted, (channels, *[None] * count), _channels(given, channels, count))
    if isinstance(layer, eqx.nn.LayerNorm | eqx.nn.RMSNorm):
        shape = tuple(layer.shape)
        fix = f"`eqx.nn.{name}({tuple(given.shape)})` is made for what it got."
        return made(f"one example of shape {shape}", shape, fix)
    if isinstance(layer, eqx.nn.Embedding):
        return made("one whole number, shape (),", (), "`jax.vmap(embedding)(tokens)`.")
    return None


def _channels(given: Any, channels: int, count: int) -> str:
    shape = tuple(given.shape)
    if len(shape) == count and channels == 1:
        return "one channel is an axis too: `x[None]`."
    if len(shape) == count + 1 and shape[-1] == channels:
        return "channels come first: `jnp.moveaxis(x, -1, 0)`."
    return "make the layer for the channels that come in, `in_channels=x.shape[0]`."
