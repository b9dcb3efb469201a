"""The data and the losses that modules from elsewhere are trained with."""

import optax
from tests.helpers import make_batch

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
