"""`assert_audited`: steps of training in which something is wrong, and some that are right."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax

import treadle
from treadle.testing import assert_audited

from ._subject import Subject

# Nothing runs, so that only the sizes matter; and each is compiled.
_BATCHES = st.sampled_from([np.zeros((size, 3), np.float32) for size in (1, 2, 5)])
Step = Callable[..., Any]

_OPTIMIZER = optax.adam(0.1)


class _Net(eqx.Module):
    """Dropout before and behind a layer, with what `keys` makes of the key."""

    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    keys: Callable[[Any], Any] = eqx.field(static=True)

    def __call__(self, x: Any, key: Any) -> Any:
        one, two = self.keys(key)
        return self.dropout(self.linear(self.dropout(x, key=one)), key=two)


def _net(keys: Callable[[Any], Any]) -> _Net:
    return _Net(eqx.nn.Linear(3, 2, key=jax.random.key(0)), eqx.nn.Dropout(0.5), keys)


def _loss(model: Any, x: Any, key: Any) -> Any:
    return jnp.mean(model(x, key) ** 2)


_STEP = treadle.TrainStep(_loss, _OPTIMIZER)


def _of_treadle(name: str, keys: Callable[[Any], Any], right: bool = False) -> Subject:
    """A step of treadle's around a model."""
    model = _net(keys)

    def check(batch: Any) -> None:
        assert_audited(_STEP, _STEP.init(model, key=jax.random.key(1)), batch)

    return Subject("assert_audited", name, _BATCHES, check, right)


def _updated(w: Any, x: Any) -> Any:
    return w - 0.1 * jax.grad(lambda w: jnp.mean((x @ w) ** 2))(w)


def _of_jax(name: str, step: Step, right: bool = False) -> Subject:
    """A step of one's own around a matrix: `step(w, batch, key) -> w`."""
    jitted = jax.jit(step, donate_argnums=0)

    def check(batch: Any) -> None:
        assert_audited(jitted, jnp.ones((3, 2)), batch, jax.random.PRNGKey(0))

    return Subject("assert_audited", name, _BATCHES, check, right)


# -- right -----------------------------------------------------------------------------------------


def _splits(w: Any, x: Any, key: Any) -> Any:
    one, two = jax.random.split(key)
    return _updated(w, x + jax.random.normal(one, x.shape) * jax.random.uniform(two, x.shape))


def _branches(w: Any, x: Any, key: Any) -> Any:
    noise = jax.lax.cond(
        jnp.sum(x) > 0,
        lambda: jax.random.normal(key, x.shape),
        lambda: jax.random.uniform(key, x.shape),
    )
    return _updated(w, x + noise)


# -- wrong -----------------------------------------------------------------------------------------


def _twice(w: Any, x: Any, key: Any) -> Any:
    noise = jax.random.normal(key, x.shape)
    return _updated(w, (x + noise) * jax.random.bernoulli(key, 0.5, x.shape))


def _after_the_split(w: Any, x: Any, key: Any) -> Any:
    one, _ = jax.random.split(key)
    noise = jax.random.normal(one, x.shape)
    return _updated(w, x + noise * jax.random.uniform(key, x.shape))


def _in_a_loop(w: Any, x: Any, key: Any) -> Any:
    def body(_: Any, w: Any) -> Any:
        return _updated(w, x + jax.random.normal(key, x.shape))

    return jax.lax.fori_loop(0, 3, body, w)


def _folded_and_split(w: Any, x: Any, key: Any) -> Any:
    one, _ = jax.random.split(key)
    noise = jax.random.normal(jax.random.fold_in(key, 0), x.shape)
    return _updated(w, x + noise * jax.random.uniform(one, x.shape))


SUBJECTS = (
    _of_treadle("treadle's step, the key split in the model", jax.random.split, right=True),
    _of_jax("a key split before each use", _splits, right=True),
    _of_jax("one key in two branches of which one runs", _branches, right=True),
    _of_treadle("two dropouts of one key", lambda key: (key, key)),
    _of_treadle("a key that was split", lambda key: (jax.random.split(key)[0], key)),
    _of_jax("noise and mask of one raw key", _twice),
    _of_jax("a raw key after its split", _after_the_split),
    _of_jax("one key in each turn of a loop", _in_a_loop),
    _of_jax("a key folded and split", _folded_and_split),
)
