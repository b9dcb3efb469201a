"""Shapes that do not fit, said as the user's code sees them: one example at a time."""

import re
from collections.abc import Sequence

from .._note import Explanation
from .._private import Mapped, mapped
from .._raised import Raised, shown, values_in
from ._layers import LayerCall, layer_call

_SHAPE = re.compile(r"\((?:\d+,|\d+(?:, ?\d+)+,?)\)")

# What the message says, and what has to hold. `{0}`, ... are groups of the pattern.
_RULES = (
    (
        (
            r"dot_general requires contracting dimensions to have the same shape, got "
            r"\((\d+),?\) and \((\d+),?\)"
        ),
        (
            "A product sums over an axis of {0} in the left array and of {1} in the right one, "
            "which must be equal: for `@`, the last axis of the left one, and the only one or the "
            "last but one of the right one."
        ),
        "`w @ x` with a `w` of `(out, {1})`; `jnp.einsum` says which axis meets which.",
    ),
    (
        r"dot_general requires contracting dimensions to have the same shape",
        "A product sums over axes of the left array and of the right one, which must be equal.",
        "`jnp.einsum` says which axis meets which: `jnp.einsum('oij,ij->o', w, x)`.",
    ),
    (
        r"jax\.lax\.dot: dimension_numbers must be specified|Incompatible shapes for dot",
        (
            "A product sums over the last axis of the left one and the first of the right one, "
            "which must be equal."
        ),
        "`w @ x` takes `w` of `(out, x.shape[0])`.",
    ),
    (
        (
            r"(\w+) got incompatible shapes for broadcasting|Incompatible shapes for broadcasting|"
            r"Incompatible types for broadcasting"
        ),
        "Shapes are compared from the last axis on, and the lengths of an axis must be equal or 1.",
        "an axis of 1 is made by `x[:, None]` (behind) or `x[None, :]` (in front).",
    ),
    (
        r"[Cc]annot concatenate arrays (?:with|that differ)",
        (
            "Arrays that are concatenated must have as many axes as each other, and the same "
            "lengths in all but the one they are joined along."
        ),
        "`jnp.stack` joins along a new axis; `x[None]` adds one; `axis=-1` joins along the last.",
    ),
    (
        r"All input arrays must have the same shape",
        "Arrays that are stacked must have one shape.",
        "`jnp.concatenate` joins what differs along one axis.",
    ),
    (
        r"cannot reshape array of shape",
        "A reshape keeps the number of elements.",
        (
            "`x.reshape(-1)` flattens, and in `x.reshape(-1, n)` the `-1` is what is left. The "
            "axis of examples is not there under `vmap`, so it has no place in the new shape."
        ),
    ),
    (
        r"Size of label '(\w)' for operand \d+ \((\d+)\) does not match previous terms \((\d+)\)",
        (
            "The letter `{0}` of the `einsum` stands for an axis of {1} in one array, and of {2} "
            "in another."
        ),
        "a letter is one length in all arrays; axes of other lengths take another letter.",
    ),
    (
        r"Too many indices: ",
        "An array is indexed with more indices than it has axes.",
        (
            "`x[..., 0]` indexes the last axis, however many stand before it. Under `vmap` the "
            "axis of examples is not there: `x[0]`, and not `x[:, 0]`."
        ),
    ),
    (
        r"iteration over a 0-d array",
        "A single number is taken apart or iterated over, and it has no axes.",
        "use it as it is; `jnp.atleast_1d(x)` gives it an axis.",
    ),
    (
        r"axis -?\d+ is out of bounds for array of dimension \d+",
        "An axis is named that the array does not have.",
        (
            "`axis=-1` is the last one, however many there are. Under `vmap` the axis of examples "
            "is not there, and the others count from 0."
        ),
    ),
    (
        r"Incompatible (?:types|shapes) for matmul arguments",
        (
            "The axes in front of the last two of a product are those of a batch, and must be "
            "equal or 1; of the last two, it sums over the last of the left one and the first of "
            "the right one."
        ),
        "`jnp.einsum` says which axis meets which: `jnp.einsum('bij,bjk->bik', x, y)`.",
    ),
    (
        r"Einstein sum subscript '(.*?)' does not contain the correct number of indices",
        "The letters `{0}` of the `einsum` are not as many as their array has axes.",
        (
            "a letter for each axis; `...` stands for any number of them in front. Under `vmap` "
            "the axis of examples is not there."
        ),
    ),
    (
        r"conv_general_dilated lhs feature dimension size",
        "A convolution got another number of channels than it was made for.",
        (
            "channels come first, `(channels, height, width)`: `jnp.transpose(x, (2, 0, 1))` for "
            "an image that has them last."
        ),
    ),
)
_SIZES = r"vmap got inconsistent sizes for array axes to be mapped"
_RANK = r"vmap was requested to map its argument along axis (\d+), which implies"
_PROMOTION = "with the config option jax_numpy_rank_promotion='raise'"
_DTYPES = "have no available implicit dtype promotion path"


def explain_shapes(raised: Raised) -> Explanation | None:
    """Where shapes or dtypes do not fit each other."""
    if raised.by_user or not isinstance(raised.error, TypeError | ValueError | IndexError):
        return None
    return _vmap_itself(raised) or _promotion(raised) or _checked(raised) or _operation(raised)


def _vmap_itself(raised: Raised) -> Explanation | None:
    if re.search(_SIZES, raised.message):
        return Explanation(
            "`vmap` walks along one axis of all its arguments together, and here those axes have "
            "different lengths.",
            "`in_axes` says what is the same for every example: `jax.vmap(f, in_axes=(None, 0))"
            "(model, x)`; keys are one for each: `jax.random.split(key, x.shape[0])`.",
            "vmap-got-inconsistent-sizes",
        )
    found = re.search(_RANK, raised.message)
    if found:
        return Explanation(
            f"`vmap` is to walk along axis {found[1]} of an argument that does not have it.",
            "what is the same for every example has `in_axes=None`: `jax.vmap(f, in_axes=(0, None))"
            "(x, scale)`; of keys there is one for each: `jax.random.split(key, x.shape[0])`.",
            "vmap-was-requested-to-map-its-argument",
        )
    return None


def _promotion(raised: Raised) -> Explanation | None:
    if _PROMOTION in raised.message:
        return Explanation(
            f"Arrays with different numbers of axes meet, and `jax_numpy_rank_promotion` is set to "
            f"refuse that.{_seen(raised)}",
            "say which axis is meant: `x[None, :]`, or `jnp.broadcast_to(x, y.shape)`.",
            "operands-could-not-be-broadcast-together",
        )
    if _DTYPES in raised.message:
        cause = (
            "Arrays of different dtypes meet, and `jax_numpy_dtype_promotion` is set to `strict`: "
            "nothing is cast unasked."
        )
        anchor = "no-available-implicit-dtype-promotion-path"
        if raised.in_library("optax"):
            return Explanation(
                f"{cause} It is in optax, which is not written for that.",
                '`with jax.numpy_dtype_promotion("standard"):` around `optimizer.init` and '
                "`optimizer.update`, as a `TrainStep` does for you.",
                anchor,
            )
        return Explanation(
            f"{cause}{_seen(raised)}",
            "cast one: `x.astype(y.dtype)`; Python numbers fit any float, so `0.5 * x` and not "
            "`np.float32(0.5) * x`.",
            anchor,
        )
    return None


def _checked(raised: Raised) -> Explanation | None:
    """A signature that jaxtyping checked."""
    if type(raised.error).__name__ != "TypeCheckError":
        return None
    found = re.search(
        r"typechecking (?:parameter '(\w+)'|the return value).*?Actual value: (.+?)\n"
        r"Expected type: (?:<class ')?(.+?)(?:'>)?\.?\n",
        raised.message,
        re.DOTALL,
    )
    if not found:
        return None
    what = f"The argument `{found[1]}`" if found[1] else "What is returned"
    wanted = re.sub(r"\b(?:jaxlib\._jax|jax)\.", "", found[3])
    return Explanation(
        f"{what} is {found[2].strip()}, and the signature says {wanted}."
        f"{_one_example(_axes(raised))}",
        "hand over what the signature says; if it is right for one example and this is a batch, "
        "`jax.vmap(model)(x)`.",
        "type-check-error",
    )


def _operation(raised: Raised) -> Explanation | None:
    layer = layer_call(raised)
    for pattern, rule, fix in _RULES:
        found = re.search(pattern, raised.message)
        if found is None:
            continue
        if layer is not None:
            return _of_layer(raised, layer)
        # Nothing of JAX's or of a library's own that only looks alike.
        groups = found.groups(default="")
        cause = f"{rule.format(*groups)}{_restated(raised)}{_seen(raised)}"
        cause += _one_example(_axes(raised))
        return Explanation(cause, fix.format(*groups), "shapes-that-do-not-fit")
    if layer is not None and layer.says_shape(raised.message):
        return _of_layer(raised, layer)
    return None


def _of_layer(raised: Raised, layer: LayerCall) -> Explanation | None:
    got = shown(layer.given)
    cause = f"`{layer.name}` takes {layer.wanted} and got {got}"
    count = layer.axes_in_front
    if count:
        left = "one axis" if count == 1 else f"{count} axes"
        cause += f": the rest fits, and {left} in front is left over, such as that of a batch."
        maps = "jax.vmap(" * count
        call = f"{maps}layer{')' * count}(x)"
        fix = (
            f"`{call}`, or `jax.vmap(model)(x)` around the whole model: Equinox's layers see one "
            f"example at a time."
        )
        return Explanation(cause, fix, "a-layer-got-a-whole-batch")
    cause += f".{_one_example(_axes(raised))}"
    return Explanation(cause, layer.fix, "shapes-that-do-not-fit")


# -- as the code sees them --------------------------------------------------------------------


def _visible(raised: Raised) -> list[Mapped]:
    """What `vmap` has done to the values at hand."""
    return [found for found in map(mapped, values_in(raised.calls)) if found is not None]


def _axes(raised: Raised) -> tuple[int, ...]:
    """How long the axes are that `vmap` has taken off, if the code at fault is under one."""
    for call in reversed(raised.calls):
        axes = {found.axes for found in map(mapped, values_in([call])) if found is not None}
        if axes:
            return axes.pop() if len(axes) == 1 else ()
    return ()


def _one_example(axes: tuple[int, ...]) -> str:
    if not axes:
        return ""
    count, gone = (str(axes[0]), "axis") if len(axes) == 1 else (" x ".join(map(str, axes)), "axes")
    return (
        f" The code runs under `vmap`, for one of {count} at a time, so its arrays are without "
        f"{'that' if gone == 'axis' else 'those'} {gone}."
    )


def _seen(raised: Raised) -> str:
    """The arrays on the line, as the code sees them."""
    named = raised.arrays()
    if not named:
        return ""
    return f" Here {_listed([f'`{name}` is {shown(value)}' for name, value in named])}."


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _restated(raised: Raised) -> str:
    """The shapes of a message that has them with the axis of the batch, without it."""
    shapes = [
        tuple(int(number) for number in re.findall(r"\d+", text))
        for text in _SHAPE.findall(raised.message)
    ]
    known, axes = _visible(raised), _axes(raised)
    whole = {found.whole for found in known if found.axes == axes}
    single = {found.shape for found in known}

    def has_axes(shape: tuple[int, ...]) -> bool:
        # Of 1 where a value is the same for all examples.
        front = zip(shape, axes, strict=False)
        return len(shape) >= len(axes) and all(have in (1, size) for have, size in front)

    # All of them must begin with the axes, one must be a value that was seen with them, and none
    # must be one as the code sees it.
    if not axes or not shapes or not all(map(has_axes, shapes)):
        return ""
    if not any(shape in whole for shape in shapes) or any(shape in single for shape in shapes):
        return ""
    one = _listed([str(shape[len(axes) :]) for shape in shapes])
    return f" The shapes in the message have the axis of the batch; of one example they are {one}."
