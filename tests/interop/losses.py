"""The data and the losses that modules from elsewhere are trained with."""

import jax
import numpy as np
import optax
from tests.helpers import assert_same, make_batch

X, Y = make_batch(16)
BATCHES = [make_batch(16, seed=seed) for seed in range(20)]


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def one_loss(model, example, key):
    x, y = example
    return cross_entropy(model(x, key=key), y)


def one_stateful(model, model_state, example, key):
    x, y = example
    logits, model_state = model(x, model_state)
    return cross_entropy(logits, y), model_state


def whole_stateful(model, model_state, batch, key):
    x, y = batch
    logits, model_state = model(x, model_state)
    return cross_entropy(logits, y).mean(), model_state


def check_own_key(model):
    """Of a model that returns its argument `key`, and the key that a stream gives it."""
    key = jax.random.key(3)
    own, streamed = model(X, key=key)
    assert_same(own, key)
    # No key of the stream is one of those that the call may split its own into.
    firsts = np.asarray(jax.random.key_data(jax.random.split(key, 8)))
    for drawn in (streamed, jax.random.split(streamed)[0]):
        assert not (firsts == np.asarray(jax.random.key_data(drawn))).all(axis=1).any()
    assert_same(model.per_example()(X[0], key=key), (own, streamed))
    assert model(X)[0] is None
