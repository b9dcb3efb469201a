"""What Equinox's layers take, and what one of them got."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._raised import Call, Raised, is_array


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
    def fits(self) -> bool:
        """Whether it got what it takes."""
        return len(self.given.shape) == len(self.shape) and self._ends_as_wanted()

    @property
    def axes_in_front(self) -> int:
        """How many axes are left over in front of a shape that fits; 0 where it does not fit."""
        extra = len(self.given.shape) - len(self.shape)
        return extra if extra > 0 and self._ends_as_wanted() else 0

    def _ends_as_wanted(self) -> bool:
        last = self.given.shape[len(self.given.shape) - len(self.shape) :]
        return all(want in (None, have) for want, have in zip(self.shape, last, strict=True))

    def says_shape(self, message: str) -> bool:
        """Whether the layer itself refused what it got."""
        return any(text in message for text in _REFUSALS)


_RANK = "needs to have rank"
_SHAPE = "must satisfy the invariant `shape == x.shape`"
_SCALAR = "should be called with a scalar index `x`"
_REFUSALS = (_RANK, _SHAPE, _SCALAR)
_PRODUCT = "dot_general requires contracting dimensions"
# By which errors a layer tells of what it got; later it computes on with something else.
_TOLD_BY = (
    (eqx.nn.Linear, (_PRODUCT,)),
    ((eqx.nn.GRUCell, eqx.nn.LSTMCell), (_PRODUCT,)),
    ((eqx.nn.Conv, eqx.nn.ConvTranspose), (_RANK, "conv_general_dilated lhs feature dimension")),
    ((eqx.nn.LayerNorm, eqx.nn.RMSNorm), (_SHAPE,)),
    (eqx.nn.Embedding, (_SCALAR,)),
)


def layer_call(raised: Raised) -> LayerCall | None:
    """The innermost layer of `equinox.nn` on the way to an error, and what it got."""
    calls = _layers_called(raised)
    if not calls:
        return None
    names = calls[-1].names
    layer, given = names["self"], names.get("x", names.get("input"))
    told_by = [texts for kind, texts in _TOLD_BY if isinstance(layer, kind)]
    if not is_array(given) or not any(text in raised.message for text in sum(told_by, ())):
        return None
    found = _described(layer, _as_given(raised, layer, given))
    if found is not None and found.fits:
        return None  # Something else is wrong.
    outer = calls[0].names["self"]
    if found is None or outer is layer or isinstance(outer, eqx.nn.Sequential):
        return found
    holder = type(outer).__name__
    return dataclasses.replace(
        found,
        name=f"{found.name}` in `{holder}",
        fix=f"make the `{holder}` for the sizes of what comes in.",
    )


def _layers_called(raised: Raised) -> list[Call]:
    """The calls of Equinox's layers below the user's line, from the outermost inwards."""
    found: list[Call] = []
    for call in raised.calls:
        if call.library is None:
            found = []
        elif call.library == "equinox" and call.name == "__call__":
            layer = call.names.get("self")
            if isinstance(layer, eqx.Module) and type(layer).__module__.startswith("equinox.nn"):
                found.append(call)
    return found


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
    if isinstance(layer, eqx.nn.GRUCell | eqx.nn.LSTMCell):
        size, had = layer.input_size, given.shape[-1] if given.shape else 1
        fix = f"`eqx.nn.{name}({had}, {layer.hidden_size}, key=key)`"
        return made(f"one step's vector, shape ({size},),", (size,), f"{fix} takes this.")
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
