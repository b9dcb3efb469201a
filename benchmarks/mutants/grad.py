"""`check_grad`: layers and losses, some with derivatives of their own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from treadle.testing import arrays, batches_like, check_grad

from ._subject import Subject

_PARAMETERS = {
    "weight": np.zeros((3, 2), np.float32),
    "bias": np.zeros(3, np.float32),
    "scale": np.zeros(3, np.float32),
}
_MODELS = batches_like(_PARAMETERS, kind="jax")
_NUMBERS = arrays("float32", shape=(3,), min_value=-3, max_value=3)
_X = np.array([0.5, -1.5])


def _layer(model: Any) -> Any:
    hidden = jnp.tanh(model["weight"] @ _X + model["bias"])
    return hidden * model["scale"]


def _with(**functions: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The layer, with something done to some of its parameters."""
    return lambda model: _layer(
        {name: functions.get(name, lambda x: x)(leaf) for name, leaf in model.items()}
    )


def _jvp(
    function: Callable[[Any], Any], tangent: Callable[[Any, Any], Any]
) -> Callable[[Any], Any]:
    """A function with a forward derivative of its own."""
    ruled = jax.custom_jvp(function)

    @ruled.defjvp
    def rule(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        return function(*primals), tangent(*primals, *tangents)

    return ruled


def _vjp(
    function: Callable[[Any], Any], cotangent: Callable[[Any, Any], Any]
) -> Callable[[Any], Any]:
    """A function with a reverse derivative of its own."""
    ruled = jax.custom_vjp(function)
    ruled.defvjp(lambda x: (function(x), x), lambda x, g: (cotangent(x, g),))
    return ruled


def _other_value(x: Any) -> Any:
    """Gives something else while it is differentiated."""
    ruled = jax.custom_vjp(jnp.sin)
    ruled.defvjp(lambda x: (x, x), lambda x, g: (g * jnp.cos(x),))
    return ruled(x)


def _rounded(x: Any) -> Any:
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


def _norm(x: Any) -> Any:
    """Without care for 0."""
    return jnp.sqrt(jnp.sum(x * x))


def _safe_norm(x: Any) -> Any:
    square = jnp.sum(x * x)
    safe = jnp.where(square > 0, square, 1)
    return jnp.where(square > 0, jnp.sqrt(safe), 0)


def _root_where_positive(x: Any) -> Any:
    """The branch that is not taken has no derivative."""
    return jnp.where(x > 0, jnp.sqrt(x), 0)


def _cross_entropy(x: Any) -> Any:
    return jax.nn.logsumexp(x) - x[0]


def _detached_softmax(x: Any) -> Any:
    powers = jnp.exp(x - jnp.max(x))
    return powers / jax.lax.stop_gradient(jnp.sum(powers))


def _looped(x: Any) -> Any:
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 1.5), (0, x))[1]


def _broken(name: str, f: Callable[[Any], Any], strategy: Any = _MODELS) -> Subject:
    return Subject("check_grad", name, strategy, lambda tree: check_grad(f, tree))


_clipped = _vjp(jnp.tanh, lambda x, g: jnp.clip(g * (1 - jnp.tanh(x) ** 2), -0.5, 0.5))

SUBJECTS = (
    _broken("a layer", _layer)._replace(right=True),
    _broken("relu, at its kink too", lambda x: jax.nn.relu(x) * jnp.abs(x - 1), _NUMBERS)._replace(
        right=True
    ),
    _broken(
        "a reverse derivative of its own",
        _vjp(jnp.sin, lambda x, g: g * jnp.cos(x)),
        _NUMBERS,
    )._replace(right=True),
    _broken("cross entropy", _cross_entropy, _NUMBERS)._replace(right=True),
    _broken("no gradient of the bias", _with(bias=jax.lax.stop_gradient)),
    _broken("rounding passes the gradient straight through", _with(scale=_rounded)),
    _broken(
        "a forward derivative of the wrong sign in one leaf",
        _with(weight=_jvp(jnp.cos, lambda x, t: t * jnp.sin(x))),
    ),
    _broken(
        "a forward derivative without its factor in one leaf",
        _with(scale=_jvp(lambda x: x * x, lambda x, t: t * x)),
    ),
    _broken(
        "a reverse derivative at the wrong place",
        _with(bias=_vjp(jnp.sin, lambda x, g: g * jnp.cos(x[::-1]))),
    ),
    _broken(
        "a reverse derivative summed over an axis",
        _with(weight=_vjp(jnp.sin, lambda x, g: jnp.cos(x) * jnp.sum(g, 0))),
    ),
    _broken("a reverse derivative that is clipped", lambda x: _clipped(x) * 2, _NUMBERS),
    _broken("another value while it is differentiated", _other_value, _NUMBERS),
    _broken("softmax with its sum detached", _detached_softmax, _NUMBERS),
    _broken("no derivative of the norm at 0", lambda x: _norm(x) ** 2, _NUMBERS),
    _broken("NaN from the branch that is not taken", _root_where_positive, _NUMBERS),
    _broken("a loop without a reverse mode", _looped, _NUMBERS),
    _broken("computed in float32", lambda x: jnp.sin(x.astype("float32")), _NUMBERS),
)
