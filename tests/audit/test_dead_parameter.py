"""What `dead-parameter` says, and the zeros and names that it goes by."""

import jax
import jax.numpy as jnp
import pytest

import treadle
from treadle._audit._dead._derivatives import is_differentiated, is_zero_of_derivative
from treadle._audit._dead._zeros import Zeros


def test_a_message_names_arrays_sizes_and_the_reason():
    @jax.jit
    def step(params, x):
        def loss(params):
            return jnp.mean((x @ params["w"]) ** 2)

        grads = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    unused = {name: jnp.ones((2, at)) for at, name in enumerate("abcdef", 1)}
    found = treadle.audit(step, {"w": jnp.ones((4, 3)), **unused}, jnp.ones((5, 4)))
    (finding,) = [each for each in found.findings if each.rule == "dead-parameter"]
    assert finding.severity == "warning"
    assert finding.message == (
        "`params/a` (float32[2, 1]), `params/b` (float32[2, 2]), `params/c` (float32[2, 3]), "
        "`params/d` (float32[2, 4]) and 2 more: updated, and the loss does not read it: its "
        "gradient is zero in every step"
    )
    assert finding.where is not None
    assert finding.where.function.endswith("step.<locals>.<lambda>")


def _known(function, *args):
    return Zeros(jax.make_jaxpr(function)(*args))


W = jnp.ones((2, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda w, x: 0.0 * w,
        lambda w, x: jnp.zeros((2, 3)) * x / (1 + jnp.sum(w)),
        lambda w, x: jnp.zeros((3, 2)) @ w,
        lambda w, x: jnp.concatenate([jnp.zeros((1, 3)), -jnp.zeros((1, 3))]).T.reshape(6),
        lambda w, x: jnp.sqrt(jnp.zeros(3)) + jnp.sum(0 * w, axis=0),
        lambda w, x: jnp.where(x > 0, jnp.zeros(()), 0.0 * x),
        lambda w, x: jax.lax.cond(x > 0, lambda: 0.0 * w, lambda: jnp.zeros((2, 3))),
        lambda w, x: jax.lax.scan(lambda c, r: (c + 0.0 * r, 0.0 * r), jnp.zeros(3), w)[0],
        lambda w, x: jax.lax.fori_loop(0, 3, lambda i, c: c * x, jnp.zeros(3)),
        lambda w, x: jax.jit(lambda a, b: a * b)(w, jnp.zeros((2, 3))),
        lambda w, x: jnp.zeros((2, 3)).at[0].add(0.0 * w[0]),
    ],
)
def test_zeros_are_known(function):
    (out,) = _known(function, W, jnp.ones(())).outputs
    assert out.is_zero


@pytest.mark.parametrize(
    "function",
    [
        lambda w, x: w + 0.0 * x,
        lambda w, x: 1.0 * w - jnp.zeros((2, 3)),
        lambda w, x: jax.lax.cond(x > 0, lambda: w, lambda: w + 0.0),
        lambda w, x: jnp.where(x > 0, w, w),
        lambda w, x: jax.lax.scan(lambda c, r: (c, r), w, w)[0],
    ],
)
def test_what_stays_as_it_is_is_known(function):
    (out,) = _known(function, W, jnp.ones(())).outputs
    assert out.same == 0


@pytest.mark.parametrize(
    "function",
    [
        lambda w, x: w - 0.1 * x,
        lambda w, x: jnp.where(x > 0, jnp.ones((2, 3)), jnp.zeros((2, 3))),
        lambda w, x: jnp.exp(0.0 * w) * x,
        lambda w, x: jax.lax.scan(lambda c, r: (c + x, r), jnp.zeros(()), w)[0],
    ],
)
def test_what_comes_of_data_depends_on_it(function):
    (out,) = _known(function, W, jnp.ones(())).outputs
    assert out.core & 0b10


@pytest.mark.parametrize(
    "function",
    [
        lambda w, x: w * x,
        lambda w, x: w - 0.1 * w / x,
        lambda w, x: jnp.where(x > 0, 0.9 * w, w),
        lambda w, x: jax.lax.cond(x > 0, lambda: 0.9 * w, lambda: w),
    ],
)
def test_a_factor_of_the_whole_is_no_data(function):
    (out,) = _known(function, W, jnp.ones(())).outputs
    assert out.depends & 0b10
    assert not out.core & 0b10


def test_jax_names_what_it_differentiates():
    """What the rule goes by, in JAX 0.6.1 to 0.10.2; the message says what is gone."""

    def gradients(w, unused, x):
        return jax.grad(lambda pair: jnp.sum(jnp.tanh(x @ pair[0])))((w, unused))

    equations = jax.make_jaxpr(gradients)(W, W, jnp.ones((4, 2))).jaxpr.eqns
    version = f"JAX {jax.__version__}"
    (tanh,) = [each for each in equations if each.primitive.name == "tanh"]
    assert is_differentiated(tanh), version
    last = equations[-1]
    assert is_zero_of_derivative(last), f"{version}: {last}"
    assert not any(map(is_zero_of_derivative, equations[:-1])), version
    plain = jax.make_jaxpr(lambda x: jnp.tanh(x) + jnp.zeros((2, 3)))(W).jaxpr.eqns
    assert not any(map(is_differentiated, plain)), version
    assert not any(map(is_zero_of_derivative, plain)), version
