"""Small modules, one for each thing that a module may hold.

JAX keeps every class that it was told of for good, so drawn modules are of these few.
"""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array


class Empty(eqx.Module):
    """A module without fields."""

    def __call__(self, x: Array) -> Array:
        return x


class Scale(eqx.Module):
    """One array."""

    factor: Any

    def __call__(self, x: Array) -> Array:
        return x * self.factor


class Affine(eqx.Module):
    """An array, and another one or `None`."""

    weight: Any
    bias: Any = None

    def __call__(self, x: Array) -> Array:
        y = x * self.weight
        return y if self.bias is None else y + self.bias


class Labelled(eqx.Module):
    """A value with static fields beside it.

    Attributes:
        value: Any pytree.
        label: Static.
        sizes: Static.
        function: Static.
    """

    value: Any
    label: str = eqx.field(static=True, default="")
    sizes: tuple[int, ...] = eqx.field(static=True, default=())
    function: Any = eqx.field(static=True, default=None)


class Residual(eqx.Module):
    """A part, and a function as a leaf."""

    inner: Any
    activation: Any = jax.nn.relu

    def __call__(self, x: Array) -> Array:
        return x + self.activation(self.inner(x))


class Branches(eqx.Module):
    """Two parts, each of which may be missing."""

    left: Any = None
    right: Any = None


class Parts(eqx.Module):
    """Parts by name."""

    parts: Any


class Chain(eqx.Module):
    """Parts in a row, in a list or a tuple."""

    layers: Any

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return x


class Tied(eqx.Module):
    """Two fields that are meant to hold the very same array."""

    encoder: Any
    decoder: Any


class Frozen(eqx.Module):
    """Something that gradients do not reach: integers, a NumPy array, a stopped array."""

    value: Any

    def __call__(self, x: Array) -> Array:
        return x + jax.lax.stop_gradient(self.value)


class Noise(eqx.Module):
    """A typed key, and a number and a bool as leaves."""

    key: Any
    rate: Any = 0.5
    active: Any = True


class Memory(eqx.Module):
    """A layer with a state: see `eqx.nn.make_with_state`."""

    index: eqx.nn.StateIndex

    def __call__(self, x: Array, state: eqx.nn.State) -> tuple[Array, eqx.nn.State]:
        return x, state.set(self.index, state.get(self.index))
