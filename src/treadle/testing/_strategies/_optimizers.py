"""`optimizers`: chains of optax, with schedules, masks, clipping, decay and wrappers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis.strategies as st
import optax

from ...tree import select
from .. import pool
from ._draw import Draw
from ._layout import Doc, call, followed, quoted
from ._printed import remember
from ._written import as_written


class _Built(NamedTuple):
    """What a call gave, and the call: a transformation does not tell how it was made."""

    value: Any
    code: Doc


def _plain(value: Any) -> _Built:
    return _Built(value, quoted(value) if isinstance(value, str) else repr(value))


def _called(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> _Built:
    """The call of a function; arguments are built ones or plain values."""
    given = [arg if isinstance(arg, _Built) else _plain(arg) for arg in args]
    named = {
        key: value if isinstance(value, _Built) else _plain(value) for key, value in kwargs.items()
    }
    value = function(*(arg.value for arg in given), **{k: v.value for k, v in named.items()})
    code = call(name, *(arg.code for arg in given), **{k: v.code for k, v in named.items()})
    return _Built(value, code)


def _optax(name: str, *args: Any, **kwargs: Any) -> _Built:
    return _called(f"optax.{name}", getattr(optax, name), *args, **kwargs)


# Names of `optax`, and what may be given beside the learning rate. The simplest first.
_BASES: tuple[tuple[str, tuple[dict[str, Any], ...]], ...] = (
    ("sgd", ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True})),
    ("adam", ({}, {"b1": 0.0}, {"b1": 0.8, "b2": 0.9})),
    ("adamw", ({}, {"weight_decay": 0.1}, {"weight_decay": 0.0})),
    ("rmsprop", ({}, {"momentum": 0.9}, {"centered": True})),
    ("lion", ({}, {"weight_decay": 0.1})),
    ("adagrad", ({},)),
    ("adadelta", ({}, {"rho": 0.5})),
    ("adafactor", ({}, {"momentum": 0.9, "min_dim_size_to_factor": 2})),
    ("adabelief", ({},)),
    ("adamax", ({},)),
    ("amsgrad", ({},)),
    ("lamb", ({}, {"weight_decay": 0.1})),
    ("nadam", ({},)),
    ("novograd", ({}, {"weight_decay": 0.1})),
    ("radam", ({},)),
    ("sign_sgd", ({},)),
    ("yogi", ({},)),
)

_COIN = st.booleans()
_RARELY = st.integers(0, 3)
_RATE = st.sampled_from([0.1, 0.01, 0.001])
_BASE = st.sampled_from(_BASES)
_OPTION = st.integers(0, 2)
_INJECTED = st.sampled_from(_BASES[:4])
_SCHEDULE = st.sampled_from(["linear", "cosine", "exponential", "piecewise", "warmup"])
_CLIPPING = st.sampled_from([None, "clip_by_global_norm", "clip", "zero_nans", "centralize"])
_STEPS = st.integers(1, 10)


def _schedule(draw: Draw) -> _Built:
    kind, rate, steps = draw(_SCHEDULE), draw(_RATE), draw(_STEPS)
    if kind == "linear":
        return _optax("linear_schedule", rate, 0.0, steps)
    if kind == "cosine":
        return _optax("cosine_decay_schedule", rate, steps)
    if kind == "exponential":
        return _optax("exponential_decay", rate, steps, 0.5)
    if kind == "piecewise":
        return _optax("piecewise_constant_schedule", rate, {steps: 0.5})
    return _optax("warmup_cosine_decay_schedule", 0.0, rate, steps, 2 * steps)


def _rate(draw: Draw) -> Any:
    return draw(_RATE) if draw(_RARELY) != 3 else _schedule(draw)


def _mask(draw: Draw) -> _Built:
    if draw(_COIN):
        return _called("treadle.tree.select", select, "**")
    return _Built(pool.matrices, "pool.matrices")


def _base(draw: Draw) -> _Built:
    injected = draw(_RARELY) == 3
    # The same choices either way, so that what fails shrinks to the plain one.
    name, options = draw(_INJECTED if injected else _BASE)
    chosen = options[draw(_OPTION) % len(options)]
    if not injected:
        return _optax(name, learning_rate=_rate(draw), **chosen)
    injecting = optax.inject_hyperparams(getattr(optax, name))
    return _called(
        f"optax.inject_hyperparams(optax.{name})", injecting, learning_rate=_rate(draw), **chosen
    )


def _parts(draw: Draw) -> list[_Built]:
    """What is chained, in order."""
    parts = []
    clipping = draw(_CLIPPING) if draw(_COIN) else None
    if clipping in ("clip_by_global_norm", "clip"):
        parts.append(_optax(clipping, draw(st.sampled_from([1.0, 0.1]))))
    elif clipping is not None:
        parts.append(_optax(clipping))
    if draw(_RARELY) == 3:
        masked = {"mask": _mask(draw)} if draw(_COIN) else {}
        parts.append(_optax("add_decayed_weights", 1e-4, **masked))
    base = _base(draw)
    if draw(_RARELY) == 3:
        base = _optax("masked", base, _mask(draw))
    return [*parts, base]


def _multi_steps(inner: _Built, every: int) -> _Built:
    def make(inner: Any, every: int) -> optax.GradientTransformation:
        return optax.MultiSteps(inner, every).gradient_transformation()

    built = _called("optax.MultiSteps", make, inner, every)
    return _Built(built.value, followed(built.code, ".gradient_transformation()"))


@st.composite
def _optimizers(draw: Draw) -> optax.GradientTransformation:
    parts = _parts(draw)
    whole = parts[0] if len(parts) == 1 else _optax("chain", *parts)
    if draw(_RARELY) == 3:
        whole = _multi_steps(whole, draw(st.integers(1, 3)))
    return remember(whole.value, whole.code)


def optimizers() -> st.SearchStrategy[optax.GradientTransformation]:
    """Optax optimizers: random chains, for any model with floats in it.

    An optimizer with a rate or a schedule (SGD, Adam, RMSProp, Lion, Adafactor and more), alone
    or after clipping, `zero_nans`, `centralize` and weight decay; under `optax.masked` with a
    `treadle.tree.select` or a function; with `optax.inject_hyperparams`; in `optax.MultiSteps`.

    What fails shrinks to `optax.sgd(learning_rate=0.1)`. In the report of a failing test it prints
    as the calls that made it (`treadle.testing.code` cannot tell: an optimizer is functions alone).

    Example:
        >>> @given(optimizers())
        ... def test_my_wrapper_changes_nothing(optimizer): ...
    """
    return as_written(optimizers, {}, _optimizers())
