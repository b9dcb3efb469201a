"""Residual networks for images."""

from collections.abc import Hashable
from typing import Any, Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import whole_number
from .._errors import ArgumentTypeError, ArgumentValueError
from .._random import as_key
from ._blocks import Block, ConvNorm, Norm, draw_convolutions, make_block
from ._door import at_the_door, check_image, one_of

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_BOTTLENECKS = (50,)
_NORMS = ("batch", "group")
_STEMS = ("imagenet", "small")
# How often the sides of an image are halved: by the stem, and by three of the four stages.
_HALVINGS = {"imagenet": 5, "small": 3}
# PyTorch's 0.1. Equinox divides what it keeps by 1 - momentum**steps, which takes the start's zeros
# out of the mean but leaves the start's ones in the variance: with Equinox's 0.99 evaluations are
# off for some five hundred steps, with 0.9 for fifty.
_MOMENTUM = 0.9

_NO_STATE = """`state` is missing, but this ResNet has batch norms, whose running statistics are a \
state beside the model.
- Make both: `model, state = eqx.nn.make_with_state(treadle.nn.ResNet)(...)`.
- Train with `treadle.TrainStep(loss_fn, optimizer, stateful=True)`, whose loss gets the state: \
`logits, state = model(x, state)`.
- Or make a model without a state: `norm="group"`."""

_NO_AXIS = """This ResNet has batch norms and is in training mode, so it must be mapped over a \
batch whose axis is called {axis!r} (its `axis_name`), and it is not.
- `treadle.TrainStep(loss_fn, optimizer, stateful=True)` does so; its `axis_name` is "batch" \
unless you say otherwise, and must be the model's.
- By hand: `jax.vmap(model, axis_name={axis!r}, in_axes=(0, None), out_axes=(0, None))(x, state)`.
- To predict, `eqx.nn.inference_mode(model)` uses the running statistics and needs no batch."""


def _check_arguments(
    self: Any,
    depth: Any,
    num_classes: Any,
    *,
    in_channels: Any = 3,
    width: Any = 64,
    norm: Any = "batch",
    groups: Any = 32,
    stem: Any = "imagenet",
    axis_name: Any = "batch",
    key: Any,
) -> None:
    one_of("depth", depth, tuple(_BLOCKS))
    whole_number("num_classes", num_classes)
    whole_number("in_channels", in_channels)
    whole_number("width", width)
    one_of("norm", norm, _NORMS)
    one_of("stem", stem, _STEMS)
    whole_number("groups", groups)
    if norm == "group" and width % groups != 0:
        raise ArgumentValueError(
            f"`width` (={width}) must be divisible by `groups` (={groups}), so that each group of "
            f"channels is of the same size: `groups={_divisor(width, groups)}`, for one."
        )
    as_key(key)


def _divisor(width: int, most: int) -> int:
    return max(groups for groups in range(1, min(width, most) + 1) if width % groups == 0)


def _check_call(self: Any, x: Any, state: Any = None, *, key: Any = None) -> None:
    batched = (
        "`jax.vmap(model)(x)`"
        if self.norm == "group"
        else "`jax.vmap(model, axis_name=..., in_axes=(0, None), out_axes=(0, None))(x, state)`"
    )
    check_image("ResNet", x, self.in_channels, batched)
    least = 2 ** (_HALVINGS[self.stem] - 1) + 1
    if min(x.shape[1:]) < least:
        halved = "five times" if self.stem == "imagenet" else "three times"
        cure = '`stem="small"` halves them three times, or enlarge' if least > 5 else "enlarge"
        raise ArgumentValueError(
            f"`x` is an image of {x.shape[1]}x{x.shape[2]}, too small for this ResNet: "
            f'`stem="{self.stem}"` and the stages halve its sides {halved}, so they need at least '
            f"{least} pixels: {cure} the images."
        )
    if key is not None:
        as_key(key)
    if state is not None and not isinstance(state, eqx.nn.State):
        raise ArgumentTypeError(
            f"`state` is of type {type(state).__name__}, not an `eqx.nn.State`. The key, if that "
            f"is what it is, goes by name: `model(x, state, key=key)`."
        )
    if self.norm == "batch":
        if state is None:
            raise ArgumentValueError(_NO_STATE)
        _check_axis(self)


def _check_axis(model: "ResNet") -> None:
    norms = jax.tree.leaves(model, is_leaf=_is_batch_norm)
    for norm in filter(_is_batch_norm, norms):
        if not norm.inference:
            try:
                jax.lax.psum(1, norm.axis_name)
            except NameError:
                raise ArgumentValueError(_NO_AXIS.format(axis=norm.axis_name)) from None
            return


def _is_batch_norm(node: Any) -> bool:
    return isinstance(node, eqx.nn.BatchNorm)


class ResNet(eqx.Module):
    """A residual network for images: 18, 34 or 50 layers deep, with batch or group norms.

    A stem, four stages of blocks (each stage twice as wide as the one before, at half its
    resolution), the mean over what is left of the image, and a linear readout. The blocks of the 50
    layers are bottlenecks, whose 3 x 3 convolution strides ("v1.5"). With 1,000 classes the depths
    have 11,689,512, 21,797,672 and 25,557,032 parameters: layer by layer the networks that
    torchvision has under these names, so that weights can be carried over.

    It is called on **one** image, channels first; `treadle.TrainStep` vmaps the loss over the
    batch.

    **Group norms** (`norm="group"`) look at one image only: the model is an ordinary one,
    `model(x)`.

    **Batch norms** (`norm="batch"`) look at the batch while training, and at statistics of the
    batches so far otherwise. Those are a state, beside the model:
    `model, state = eqx.nn.make_with_state(treadle.nn.ResNet)(...)`, then
    `logits, state = model(x, state)` in a loss for `treadle.TrainStep(..., stateful=True)`.

    The running statistics are those of `eqx.nn.BatchNorm(mode="batch", momentum=0.9)`: at each step
    they move by a tenth towards the mean and the variance of the batch, as PyTorch's do, except
    that the variance is of the batch as it is (divided by n, not by n - 1). Evaluation divides
    both by 1 - 0.9**t after `t` steps. This is right for the mean, which begins at 0. The variance
    begins at 1, so it is then too large by 0.9**t / (1 - 0.9**t): by 1.9 after four steps, by 0.14
    after twenty, by nothing to speak of after a hundred. So early evaluations tell less than the
    model is worth.

    In bfloat16 or float16 the convolutions and the readout compute in that dtype, norms in float32;
    running statistics stay float32.

    Attributes:
        stem_conv: The first convolution, with its norm.
        pool: The max-pool after it, or `None` for small images.
        stages: Four of them, each a tuple of blocks.
        readout: From the mean over the last stage's maps to the logits.

    Example:
        >>> make = eqx.nn.make_with_state(treadle.nn.ResNet)
        >>> model, state = make(50, 1000, key=jax.random.key(0))
        >>> logits, _ = eqx.nn.inference_mode(model)(jnp.zeros((3, 224, 224)), state)

    References:
        He, Zhang, Ren and Sun, *Deep Residual Learning for Image Recognition*, 2016.
        Wu and He, *Group Normalization*, 2018.
    """

    stem_conv: ConvNorm
    pool: eqx.nn.MaxPool2d | None
    stages: tuple[tuple[Block, ...], ...]
    readout: eqx.nn.Linear
    depth: int = eqx.field(static=True)
    num_classes: int = eqx.field(static=True)
    in_channels: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    norm: Literal["batch", "group"] = eqx.field(static=True)
    stem: Literal["imagenet", "small"] = eqx.field(static=True)

    @at_the_door(_check_arguments)
    def __init__(
        self,
        depth: int,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: int = 64,
        norm: Literal["batch", "group"] = "batch",
        groups: int = 32,
        stem: Literal["imagenet", "small"] = "imagenet",
        axis_name: Hashable = "batch",
        key: PRNGKeyArray,
    ):
        """Draws the parameters from `key`.

        Convolutions as He et al. (2015) do, normal with variance 2 / fan-out; the readout as
        `eqx.nn.Linear`; norms begin as the identity.

        Args:
            depth: 18, 34 or 50.
            num_classes: Length of the output vector, at least 1.
            in_channels: Of the images: 3 in colour, 1 in grey.
            width: Channels of the first stage, inside its blocks; the others have 2, 4 and 8 times
                as many.
            norm: `"batch"` or `"group"`.
            groups: Into how many groups group norms split the channels; must divide `width`.
                Without effect on batch norms.
            stem: `"imagenet"` begins with a 7 x 7 convolution and a max-pool that leave a quarter
                of each side, for images of 17 pixels or more a side (usually 224); `"small"` with
                a 3 x 3 convolution that leaves everything, for 5 pixels or more (CIFAR has 32).
            axis_name: Of the batch that batch norms reduce over; that of the `TrainStep`.
            key: Made by `jax.random.key`.

        Raises:
            ArgumentValueError: An argument has another value than it may have.
            ArgumentTypeError: A number is not one, or `key` is not a key (a seed, say).
        """
        self.depth, self.num_classes = int(depth), int(num_classes)
        self.in_channels, self.width = int(in_channels), int(width)
        self.norm, self.stem = norm, stem

        def make_norm(channels: int) -> Norm:
            if norm == "group":
                return eqx.nn.GroupNorm(groups, channels)
            return eqx.nn.BatchNorm(channels, axis_name, momentum=_MOMENTUM, mode="batch")

        conv_key, readout_key = jax.random.split(as_key(key))
        kernel_size, stride = (7, 2) if stem == "imagenet" else (3, 1)
        stem_conv = ConvNorm(self.in_channels, self.width, kernel_size, stride, make_norm=make_norm)
        channels, stages = self.width, []
        for stage, count in enumerate(_BLOCKS[self.depth]):
            blocks = []
            for index in range(count):
                block = make_block(
                    channels,
                    self.width * 2**stage,
                    2 if index == 0 and stage > 0 else 1,
                    bottleneck=self.depth in _BOTTLENECKS,
                    make_norm=make_norm,
                )
                blocks.append(block)
                channels = block.convs[-1].conv.out_channels
            stages.append(tuple(blocks))
        self.stem_conv, self.stages = draw_convolutions((stem_conv, tuple(stages)), conv_key)
        self.pool = eqx.nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else None
        self.readout = eqx.nn.Linear(channels, self.num_classes, key=readout_key)

    @overload
    def __call__(
        self,
        x: Float[Array, "in_channels height width"] | Float[np.ndarray, "in_channels height width"],
        state: None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " num_classes"]: ...

    @overload
    def __call__(
        self,
        x: Float[Array, "in_channels height width"] | Float[np.ndarray, "in_channels height width"],
        state: eqx.nn.State,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, " num_classes"], eqx.nn.State]: ...

    @at_the_door(_check_call)
    def __call__(
        self,
        x: Float[Array, "in_channels height width"] | Float[np.ndarray, "in_channels height width"],
        state: eqx.nn.State | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " num_classes"] | tuple[Float[Array, " num_classes"], eqx.nn.State]:
        """Computes the logits of one image.

        Args:
            x: The image, floating point, channels first. With the stem for small images at least
                5 pixels a side, otherwise at least 17.
            state: Of the batch norms. A model with group norms needs none.
            key: Unused: nothing is drawn. It is taken so that one loss serves all models.

        Returns:
            The logits; with a `state`, the logits and the new state. (One that is given to a model
            with group norms comes back as it is, so that one loss serves both.)

        Raises:
            ArgumentValueError: `x` is not one image of `in_channels` channels or is too small; or
                there are batch norms and `state` is missing, or, in training mode, there is no
                axis `axis_name` that the model is mapped over.
            ArgumentTypeError: `x` is not a floating-point array, `state` is not an `eqx.nn.State`,
                or `key` is not a key.
        """
        maps, new_state = self.stem_conv(jnp.asarray(x), state)
        maps = jax.nn.relu(maps)
        if self.pool is not None:
            maps = self.pool(maps)
        for block in (block for stage in self.stages for block in stage):
            maps, new_state = block(maps, new_state)
        logits = self.readout(jnp.mean(maps, axis=(1, 2)))
        return logits if new_state is None else (logits, new_state)
