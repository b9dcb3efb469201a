"""Laws of data: an epoch is a permutation, and a position is all there is to resume."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from treadle.data import arrays, decode_position, encode_position, prefetch


@st.composite
def recipes(draw, max_examples=24):
    """What to make batches of any sort from, over the numbers 0, 1, ..., finite."""
    num_examples = draw(st.integers(1, max_examples))
    drop_remainder = draw(st.booleans())
    largest = num_examples if drop_remainder else num_examples + 3
    return {
        "num_examples": num_examples,
        "batch_size": draw(st.integers(1, largest)),
        "numbers": draw(st.sampled_from([np.arange, jnp.arange])),
        "seed": draw(st.integers(0, 3)),
        "shuffle": draw(st.booleans()),
        "drop_remainder": drop_remainder,
        "epochs": draw(st.integers(1, 3)),
    }


def make(num_examples, batch_size, numbers, seed, **options):
    # Here, for JAX may draw from Python's generator when it compiles, and strategies must not.
    squares = np.arange(num_examples)[:, None] ** 2
    tree = (numbers(num_examples), {"square": squares})
    return arrays(tree, batch_size, key=jax.random.key(seed), **options)


def taken(iterator, count=None):
    """`(rows, position behind them)` of the next batches: `count`, or all."""
    out = []
    while count is None or len(out) < count:
        try:
            numbers, rest = next(iterator)
        except StopIteration:
            break
        rows = np.asarray(numbers).tolist()
        assert rest["square"][:, 0].tolist() == [row**2 for row in rows]
        out.append((rows, iterator.get_state()))
    return out


@given(recipes())
def test_each_epoch_is_a_permutation(recipe):
    source = make(**recipe)
    batches = [rows for rows, _ in taken(iter(source))]
    assert len(batches) == len(source)
    per_epoch = source.batches_per_epoch
    for epoch in range(source.epochs):
        own = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        rows = [row for batch in own for row in batch]
        kept = per_epoch * source.batch_size if source.drop_remainder else source.num_examples
        assert len(rows) == len(set(rows)) == kept
        assert set(rows) <= set(range(source.num_examples))
        assert all(len(batch) == source.batch_size for batch in own[:-1])
        assert 0 < len(own[-1]) <= source.batch_size
        if not source.shuffle:
            assert rows == list(range(kept))


@given(recipes(), st.data())
def test_a_position_is_all_there_is_to_resume(recipe, data):
    source = make(**recipe)
    stop = data.draw(st.integers(0, len(source)))
    iterator = iter(source)
    taken(iterator, stop)
    position = decode_position(json.loads(json.dumps(encode_position(iterator.get_state()))))
    fresh = iter(source)
    taken(fresh, data.draw(st.integers(0, len(source))))
    fresh.set_state(position)
    assert fresh.get_state() == position
    assert taken(fresh) == taken(iterator)


@given(recipes(), st.integers(1, 4), st.data())
def test_prefetching_changes_neither_batches_nor_positions(recipe, size, data):
    source = make(**recipe)
    assert taken(iter(prefetch(source, size))) == taken(iter(source))
    stop = data.draw(st.integers(0, len(source)))
    ahead = iter(prefetch(source, size))
    taken(ahead, stop)
    plain = iter(source)
    plain.set_state(ahead.get_state())
    again = iter(prefetch(source, size))
    again.set_state(ahead.get_state())
    assert taken(again) == taken(plain) == taken(ahead)


@given(st.integers(10, 40), st.integers(0, 2**31), st.integers(0, 50))
def test_epochs_differ_in_order_whatever_the_batch_size(num_examples, seed, epoch):
    def order(batch_size, epoch):
        source = arrays(
            np.arange(num_examples), batch_size, key=jax.random.key(seed), drop_remainder=False
        )
        iterator = iter(source)
        iterator.set_state(iterator.get_state() | {"epoch": epoch})
        batches = [next(iterator) for _ in range(source.batches_per_epoch)]
        return np.concatenate(batches).tolist()

    assert order(3, epoch) == order(num_examples, epoch)
    assert order(3, epoch) != order(3, epoch + 1)
