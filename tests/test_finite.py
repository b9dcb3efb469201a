import jax
import jax.numpy as jnp
import numpy as np
import pytest

from treadle._finite import all_finite


def leaves(*values):
    return [jnp.array(values, jnp.float32), jnp.ones((2, 2))]


@pytest.mark.parametrize(
    ("values", "norm", "finite"),
    [
        ((1.0, 2.0), 2.5, True),
        ((1.0, np.nan), np.nan, False),
        ((1.0, np.inf), np.inf, False),
        # The squares overflow, the numbers do not.
        ((1e30, 1e30), np.inf, True),
    ],
)
def test_a_norm_that_is_not_finite_makes_it_look_at_the_leaves(values, norm, finite):
    assert bool(jax.jit(all_finite)(jnp.float32(norm), leaves(*values))) == finite


def test_it_looks_at_each_member_and_at_nested_ones():
    values = jnp.array([[1.0, 2.0], [1e30, 1e30], [1.0, jnp.nan]])
    norms = jnp.array([2.0, jnp.inf, jnp.nan])
    found = jax.jit(jax.vmap(lambda n, v: all_finite(n, [v, jnp.ones(2)])))(norms, values)
    assert found.tolist() == [True, True, False]
    twice = jax.vmap(jax.vmap(lambda n, v: all_finite(n, [v])))(norms[None], values[None])
    assert twice.tolist() == [[True, True, False]]
    alike = jax.vmap(lambda n: all_finite(n, [jnp.ones(2)]))(jnp.array([1.0, 2.0]))
    assert alike.tolist() == [True, True]


def test_members_look_only_where_one_must():
    program = jax.make_jaxpr(jax.vmap(lambda n, v: all_finite(n, [v])))(
        jnp.ones(3), jnp.ones((3, 4))
    )
    assert "cond" in [equation.primitive.name for equation in program.jaxpr.eqns]
