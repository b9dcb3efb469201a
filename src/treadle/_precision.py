"""`Precision`: in which formats a model is kept and computes."""

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike, PyTree

from ._custom_types import Door
from ._errors import ArgumentTypeError, ArgumentValueError
from .tree._cast import converted, is_real

_FORMATS = ("float16", "bfloat16", "float32", "float64")
_SHORT = {
    "f16": "float16",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "fp32": "float32",
    "f64": "float64",
    "fp64": "float64",
}
_AUTOMATIC: Any = "automatic"

# A scale and its reciprocal are normal numbers of float32, and a counter of steps is an int32.
_SMALLEST, _LARGEST = 2.0**-100, 2.0**126
_LONGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class LossScale:
    """Dynamic loss scaling, which keeps small gradients from vanishing in float16.

    The loss is multiplied by the scale before it is differentiated, and the gradient divided by it
    afterwards, in float32. A step whose scaled gradient is not finite is dropped, and the scale
    multiplied by `backoff_factor`; after `growth_interval` finite steps in a row it is multiplied
    by `growth_factor`. The scale is part of the state.

    Args:
        initial: The scale of the first step.
        growth_factor: More than 1; a power of two keeps the scaling exact.
        backoff_factor: Between 0 and 1.
        growth_interval: In steps, at most 2**31 - 1.
        minimum: The scale does not go below; a gradient that overflows even there is a fault of its
            own, which `nonfinite` decides upon. At least 2.0**-100.
        maximum: Nor above. At most 2.0**126: beyond it the reciprocal has fewer digits.

    Raises:
        ArgumentTypeError: What is no number.
        ArgumentValueError: A number out of its range.

    References:
        Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740. The defaults
        of `initial` and `growth_interval` are those of PyTorch's `GradScaler`, but for half the
        initial scale, at which float16 can still hold a loss of 1.
    """

    initial: Door[float] = 2.0**15
    growth_factor: Door[float] = 2.0
    backoff_factor: Door[float] = 0.5
    growth_interval: Door[int] = 2_000
    minimum: Door[float] = 1.0
    maximum: Door[float] = 2.0**24

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                raise ArgumentTypeError(
                    f"`{name}` (={value!r}) is a {type(value).__name__}, not a number."
                )
        rules = {
            "minimum": (
                self.minimum >= _SMALLEST,
                "must be positive, and at least 2.0**-100: leave it at 1.0",
            ),
            "maximum": (
                self.minimum <= self.maximum <= _LARGEST,
                (
                    f"must be at least `minimum` (={self.minimum}), and at most 2.0**126, so that "
                    f"it is finite in float32 and its reciprocal has all digits"
                ),
            ),
            "initial": (
                self.minimum <= self.initial <= self.maximum,
                f"must lie between `minimum` (={self.minimum}) and `maximum` (={self.maximum})",
            ),
            "growth_factor": (1 < self.growth_factor < np.inf, "must be more than 1"),
            "backoff_factor": (0 < self.backoff_factor < 1, "must lie between 0 and 1"),
            "growth_interval": (
                self.growth_interval % 1 == 0 and 1 <= self.growth_interval <= _LONGEST,
                (
                    "must be a whole number of at least 1, and at most 2**31 - 1, which int32 "
                    "counts to: for a scale that never grows, set `maximum` to `initial`"
                ),
            ),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ArgumentValueError(f"`{name}` (={getattr(self, name)!r}) {rule}.")


@dataclasses.dataclass(frozen=True, init=False)
class Precision:
    """In which floating-point formats a model is kept and computes.

    The loss function sees a model whose parameters are cast to `compute`. When it calls the model,
    or any module of it, the floating-point inputs of that outermost call are cast to `compute` and
    its outputs to `output`; what the loss does outside of modules (the softmax, the comparison with
    targets) is untouched by treadle. Figures and microbatches are added up in float32 (what a
    backward pass adds up over the examples of one microbatch, it adds in `compute`), gradients
    reach the optimizer in float32, and so do the parameters. Integers, bools, keys, complex numbers
    and the state of stateful layers are never cast.

    Args:
        params: The format of the model in the state; `None` keeps what the model has.
        compute: That of the modules' inputs and parameters; `None` casts nothing.
        output: That of what the outermost call of a module returns; `None` casts nothing.
        loss_scale: For `compute="float16"`, where it is `LossScale()` unless said otherwise;
            `None` for none.
        stochastic_rounding: With `params="bfloat16"`: the updated parameters are rounded up or down
            at random, in proportion to the distance, so that updates smaller than half a unit in
            the last place are not lost on average.

    Raises:
        ArgumentValueError: A format that is none of float16, bfloat16, float32, float64; float64
            where JAX has it switched off; a loss scale without float16; stochastic rounding
            without bfloat16 parameters.

    References:
        Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740. Stochastic
        rounding of bfloat16 parameters: Zamirai et al., "Revisiting BFloat16 Training", 2020,
        arXiv:2010.06192.

    Example:
        >>> treadle.TrainStep(loss_fn, optimizer, precision="bf16")
        >>> treadle.Precision(params="float32", compute="bfloat16", output="float32")  # the same
    """

    params: np.dtype | None
    compute: np.dtype | None
    output: np.dtype | None
    loss_scale: LossScale | None
    stochastic_rounding: bool

    def __init__(
        self,
        params: Door[DTypeLike | None] = None,
        compute: Door[DTypeLike | None] = None,
        output: Door[DTypeLike | None] = None,
        *,
        loss_scale: Door[LossScale | None] = _AUTOMATIC,
        stochastic_rounding: bool = False,
    ):
        formats = {"params": params, "compute": compute, "output": output}
        found = {name: _format(name, value) for name, value in formats.items()}
        half = found["compute"] == jnp.float16
        if isinstance(loss_scale, str) and loss_scale == _AUTOMATIC:
            loss_scale = LossScale() if half else None
        if loss_scale is not None and not isinstance(loss_scale, LossScale):
            raise ArgumentTypeError(
                f"`loss_scale` (={loss_scale!r}) must be a `treadle.LossScale`, such as "
                f"`treadle.LossScale(initial=2.0**15)`, or None."
            )
        if loss_scale is not None and not half:
            raise ArgumentValueError(
                f"`loss_scale` (={loss_scale}) goes with `compute='float16'`, not with `compute` "
                f"(={_name(found['compute'])}): other formats have the range of float32, so "
                f"nothing vanishes that a scale could save. Leave it out."
            )
        if stochastic_rounding and found["params"] != jnp.bfloat16:
            raise ArgumentValueError(
                f"`stochastic_rounding` goes with `params='bfloat16'`, not with `params` "
                f"(={_name(found['params'])}): leave it out, or keep the parameters in bfloat16."
            )
        values = {
            **found,
            "loss_scale": loss_scale,
            "stochastic_rounding": bool(stochastic_rounding),
        }
        # Frozen, like every dataclass whose own `__init__` checks first.
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        formats = ", ".join(
            f"{name}={_name(getattr(self, name))}" for name in ("params", "compute", "output")
        )
        scale = f", loss_scale={self.loss_scale}" if self.loss_scale is not None else ""
        rounding = ", stochastic_rounding=True" if self.stochastic_rounding else ""
        return f"Precision({formats}{scale}{rounding})"


PrecisionLike: TypeAlias = Precision | str | None
"""What `TrainStep(precision=...)` takes."""


def _format(name: str, value: Any) -> np.dtype | None:
    if value is None:
        return None
    try:
        dtype = jnp.dtype(_SHORT.get(value, value) if isinstance(value, str) else value)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in _FORMATS:
        raise ArgumentValueError(
            f"`{name}` (={value!r}) must be one of {', '.join(map(repr, _FORMATS))}, or None."
        )
    if dtype == jnp.float64 and jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ArgumentValueError(
            f"`{name}` (={value!r}) needs float64, which JAX has switched off: "
            f"`jax.config.update('jax_enable_x64', True)` before anything else."
        )
    return dtype


def _name(dtype: np.dtype | None) -> str:
    return "None" if dtype is None else repr(dtype.name)


_PRESETS = {
    "f32": ("float32", "float32", "float32"),
    "bf16": ("float32", "bfloat16", "float32"),
    "fp16": ("float32", "float16", "float32"),
    "bf16-true": ("bfloat16", "bfloat16", "float32"),
}
_ALIASES = {
    "fp32": "f32",
    "float32": "f32",
    "bfloat16": "bf16",
    "bf16-mixed": "bf16",
    "f16": "fp16",
    "float16": "fp16",
    "fp16-mixed": "fp16",
}


def as_precision(value: Any, name: str = "precision") -> Precision | None:
    """A policy from what a user wrote.

    Raises:
        ArgumentValueError: A name that is not known.
        ArgumentTypeError: Neither a name nor a policy.
    """
    if value is None or isinstance(value, Precision):
        return value
    if not isinstance(value, str):
        raise ArgumentTypeError(
            f"`{name}` (={value!r}) is a {type(value).__name__}: give a name such as 'bf16', or "
            f"`treadle.Precision(params=..., compute=..., output=...)`."
        )
    preset = _PRESETS.get(_ALIASES.get(value, value))
    if preset is None:
        raise ArgumentValueError(
            f"`{name}` (={value!r}) is not known. 'bf16': float32 parameters, bfloat16 compute; "
            f"'fp16': float32 parameters, float16 compute with dynamic loss scaling; 'bf16-true': "
            f"bfloat16 parameters too, float32 in the optimizer; 'f32': float32 throughout. "
            f"Anything else: `treadle.Precision(params=..., compute=..., output=...)`."
        )
    return Precision(*preset)


def cast(tree: PyTree, dtype: Any, is_leaf: Any = None) -> PyTree:
    """Arrays of real floating-point numbers in another format; `None` casts nothing."""
    if dtype is None:
        return tree
    return jax.tree.map(lambda leaf: converted(leaf, dtype), tree, is_leaf=is_leaf)


def widened(tree: PyTree, is_leaf: Any = None) -> PyTree:
    """Formats narrower than float32 as float32."""

    def convert(leaf: Any) -> Any:
        narrow = is_real(leaf) and jnp.finfo(leaf.dtype).bits < 32
        return jnp.asarray(leaf).astype(jnp.float32) if narrow else leaf

    return jax.tree.map(convert, tree, is_leaf=is_leaf)
