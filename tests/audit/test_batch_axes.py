"""What was drawn, followed to where it meets data: along which axes each place has its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from treadle._audit._sharing._batch_axes import BatchAxes
from treadle._audit._sharing._spread import DATA, regrouped, spread_of

SHAPE = (6, 4)
KEY = jax.random.key(0)


def seen_of(fn):
    """Runs through a function of data of shape (6, 4) and a key."""
    closed = jax.make_jaxpr(fn)(jnp.ones(SHAPE), KEY)
    own = tuple(frozenset([at]) for at in range(2))
    data = spread_of(SHAPE, depends=DATA)._replace(axes=own)
    return BatchAxes(closed, [data, spread_of(())], dict(enumerate(SHAPE)))


def of_a_table(x, key):
    return x + jnp.arange(9.0)[jax.random.randint(key, (4,), 0, 9)]


def picked_from_more(x, key):
    return x + jax.random.normal(key, (9,))[jnp.arange(4)]


def picked_for_each_example(x, key):
    return x + jax.random.normal(key, (9,))[jnp.arange(24).reshape(6, 4) % 9]


def with_one_key_picked_again_and_again(x, key):
    keys = jax.random.split(key, 2)[jnp.zeros(6, jnp.int32)]
    return jax.vmap(lambda x, key: x + jax.random.normal(key, x.shape))(x, keys)


def with_keys_in_another_order(x, key):
    keys = jax.random.split(key, 6)[jnp.arange(6)[::-1]]
    return jax.vmap(lambda x, key: x + jax.random.normal(key, x.shape))(x, keys)


def of_a_gamma_distribution(x, key):
    return jax.vmap(lambda x: jax.random.gamma(key, x))(x)


def captured_by_both_branches_under_vmap(x, key):
    def noisy(x):
        return x + jax.random.normal(key, x.shape)

    return jax.vmap(lambda x: jax.lax.cond(x[0] > 0, noisy, lambda x: x, x))(x)


def drawn_in_a_loop_until_enough(x, key):
    return x + jax.random.poisson(key, 2.0, (4,))


def in_two_parts(x, key):
    first, last = jnp.split(jax.random.normal(key, (1, 8)), 2, axis=1)
    return x + first * last


def upside_down(x, key):
    noise = jax.random.normal(key, (6, 2))
    return x + jnp.concatenate([noise, -noise], axis=1)


def its_largest(x, key):
    noise, _ = jax.lax.top_k(jax.random.normal(key, (9,)), 4)
    return x + jnp.cumsum(noise)


SHARED, OWN = (False, True), (True, True)


@pytest.mark.parametrize(
    ("fn", "along"),
    [
        (of_a_table, SHARED),
        (picked_from_more, SHARED),
        (picked_for_each_example, OWN),
        (with_one_key_picked_again_and_again, SHARED),
        (with_keys_in_another_order, OWN),
        (of_a_gamma_distribution, SHARED),
        (captured_by_both_branches_under_vmap, SHARED),
        (drawn_in_a_loop_until_enough, SHARED),
        (in_two_parts, SHARED),
        (upside_down, OWN),
        (its_largest, SHARED),
    ],
)
def test_a_draw_is_followed_to_the_data(fn, along):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        meetings = seen_of(fn).meetings
    assert {meeting.draw.along for meeting in meetings} == {along}


def one_number(x, key):
    return x * jax.random.uniform(key) + jax.random.normal(key, (1, 1))


def in_a_product(x, key):
    return x @ jax.random.normal(key, (4, 3))


def at_places_of_its_own(x, key):
    places = jax.random.uniform(key, (3,))
    return x[:, :, None] * places + jnp.sin(places)


def largest_of_many(x, key):
    return x + jnp.max(jax.random.normal(key, (4,)))


@pytest.mark.parametrize("fn", [one_number, in_a_product, at_places_of_its_own, largest_of_many])
def test_what_no_array_of_draws_meets(fn):
    with jax.numpy_rank_promotion("allow"):
        assert seen_of(fn).meetings == []


def test_what_happens_to_axes():
    def scanned(x, key):
        return jax.lax.scan(lambda total, row: (total + row.sum(), None), 0.0, x)

    assert seen_of(scanned).scanned == {0}
    assert seen_of(lambda x, key: jax.lax.map(jnp.sum, x)).mapped == {0}
    assert seen_of(lambda x, key: jnp.cumsum(x, axis=1)).mixed == {1}
    assert seen_of(lambda x, key: x @ x.T).crossed == {(0, 0)}

    def normed(x, key):
        return x - jax.lax.pmean(x, "batch")

    seen = seen_of(lambda x, key: jax.vmap(lambda x: normed(x, key), axis_name="batch")(x))
    assert seen.together(0) != seen.together(1)
    both = seen_of(lambda x, key: x[:4] + x.T[:, :4])
    assert both.together(0) == both.together(1)


def test_devices_share_what_one_key_draws():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    spec = jax.sharding.PartitionSpec
    mapped = functools.partial(
        jax.shard_map, mesh=mesh, out_specs=spec("data"), in_specs=(spec("data"), spec())
    )

    def noisy(x, key):
        return x + jax.random.normal(key, x.shape)

    (meeting,) = seen_of(mapped(noisy, check_vma=False)).meetings
    assert meeting.data.over - meeting.draw.over == {"data"}

    def own(x, key):
        return noisy(x, jax.random.fold_in(key, jax.lax.axis_index("data")))

    (meeting,) = seen_of(mapped(own, check_vma=False)).meetings
    assert meeting.data.over == meeting.draw.over == {"data"}


@pytest.mark.parametrize(
    ("before", "after", "groups"),
    [
        ((6, 5, 4), (30, 4), [[0, 1], [2]]),
        ((30, 4), (6, 5, 4), [[0], [0], [1]]),
        ((6, 4), (4, 6), [[0, 1], [0, 1]]),
        ((1, 6, 4), (6, 1, 4), [[1], [], [2]]),
        ((1, 6, 4), (1, 24), [[0], [1, 2]]),
        ((6,), (6,), [[0]]),
        ((1, 1), (), []),
    ],
)
def test_a_reshape_merges_and_splits(before, after, groups):
    assert regrouped(before, after) == groups
    assert np.prod(before) == np.prod(after)
