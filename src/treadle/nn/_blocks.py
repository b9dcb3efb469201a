"""What residual networks are put together from: convolutions that are normalised, and blocks."""

import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Norm: TypeAlias = eqx.nn.BatchNorm | eqx.nn.GroupNorm
State: TypeAlias = eqx.nn.State | None
_T = TypeVar("_T")


def normalise(
    norm: Norm, x: Float[Array, "channels height width"], state: State
) -> tuple[Float[Array, "channels height width"], State]:
    """Normalises in float32 at least, whatever the dtype of `x`, and returns the dtype of `x`.

    The mean of squares of a bfloat16 map keeps two or three digits, that of a float16 map can
    overflow, and running statistics in such dtypes stand still. A float32 map is left as it is.
    """
    if isinstance(norm, eqx.nn.GroupNorm):
        return norm(x), state  # Equinox's does the same by itself.
    with jax.numpy_dtype_promotion("standard"):
        wide = jnp.result_type(x.dtype, jnp.float32)
    if x.dtype != wide:
        affine = lambda n: (n.weight, n.bias)
        norm = eqx.tree_at(affine, norm, tuple(leaf.astype(wide) for leaf in affine(norm)))
    # At inference Equinox raises a float to an integer power, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        # `None` was refused at the model's door.
        out, state = norm(x.astype(wide), cast(eqx.nn.State, state))
    return out.astype(x.dtype), state


class ConvNorm(eqx.Module):
    """A convolution without bias, and the norm that shifts in its place.

    The convolution's weight is only a shape until `draw_convolutions`.
    """

    conv: eqx.nn.Conv2d
    norm: Norm

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        *,
        make_norm: Callable[[int], Norm],
    ):
        self.conv = eqx.filter_eval_shape(
            eqx.nn.Conv2d,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            use_bias=False,
            key=jax.random.key(0),  # Nothing is drawn from it.
        )
        self.norm = make_norm(out_channels)

    def __call__(
        self, x: Float[Array, "in_channels height width"], state: State
    ) -> tuple[Float[Array, "out_channels out_height out_width"], State]:
        return normalise(self.norm, self.conv(x), state)


class Block(eqx.Module):
    """Convolutions with a connection around them, and a ReLU after the sum."""

    convs: tuple[ConvNorm, ...]
    shortcut: ConvNorm | None
    """Where the sizes differ, a 1 x 1 convolution; otherwise the identity."""

    def __call__(
        self, x: Float[Array, "in_channels height width"], state: State
    ) -> tuple[Float[Array, "out_channels out_height out_width"], State]:
        out = x
        for index, conv in enumerate(self.convs):
            out = jax.nn.relu(out) if index > 0 else out
            out, state = conv(out, state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(out + x), state


def make_block(
    in_channels: int,
    width: int,
    stride: int,
    *,
    bottleneck: bool,
    make_norm: Callable[[int], Norm],
) -> Block:
    """A block of two 3 x 3 convolutions, or of one between two of 1 x 1.

    Args:
        in_channels: Channels of its input.
        width: Channels inside; a bottleneck returns four times as many.
        stride: Of the block, 1 or 2.
        bottleneck: Whether it is one.
        make_norm: From a number of channels to the norm after a convolution of that many.
    """
    out_channels = 4 * width if bottleneck else width
    # In a bottleneck the 3 x 3 convolution strides, not the first 1 x 1: that one would skip three
    # quarters of its input. (The original strides there; "v1.5" is the usual name for this.)
    sizes = (
        [(width, 1, 1), (width, 3, stride), (out_channels, 1, 1)]
        if bottleneck
        else [(width, 3, stride), (width, 3, 1)]
    )
    convs = []
    channels = in_channels
    for out, kernel_size, conv_stride in sizes:
        convs.append(ConvNorm(channels, out, kernel_size, conv_stride, make_norm=make_norm))
        channels = out
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = ConvNorm(in_channels, out_channels, 1, stride, make_norm=make_norm)
    return Block(tuple(convs), shortcut)


def draw_convolutions(tree: _T, key: PRNGKeyArray) -> _T:
    """Gives every weight that is only a shape its values, as He et al. (2015) draw them.

    Normal with variance 2 / fan-out, so that gradients keep their size on the way back. They are
    cut from one long draw: outside `jit`, JAX compiles its generator anew for every shape, which
    takes seconds for a network.
    """
    leaves, treedef = jax.tree.flatten(tree)
    shapes = [leaf for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)]
    numbers = jax.random.normal(key, (sum(leaf.size for leaf in shapes),), shapes[0].dtype)
    start, drawn = 0, []
    for leaf in leaves:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            out_channels, _, *kernel_size = leaf.shape
            scale = (2 / (out_channels * math.prod(kernel_size))) ** 0.5
            part = jax.lax.dynamic_slice(numbers, (start,), (leaf.size,))
            start += leaf.size
            leaf = part.reshape(leaf.shape) * scale
        drawn.append(leaf)
    return jax.tree.unflatten(treedef, drawn)
