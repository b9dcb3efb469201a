"""What the steps of the corpus train."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


class Net(eqx.Module):
    """A classifier with dropout, the key split inside."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, key, width=8):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(4, width, key=one)
        self.last = eqx.nn.Linear(width, 3, key=two)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, key):
        one, two = jax.random.split(key)
        x = self.dropout(x, key=one)
        return self.last(self.dropout(jax.nn.relu(self.first(x)), key=two))


OPTIMIZER = optax.adam(1e-3)


def batch(size=6):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(size, 4)), jnp.float32)
    return x, jnp.asarray(rng.integers(0, 3, size), jnp.int32)


def net(width=8):
    model = Net(jax.random.key(0), width)
    return model, OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def params():
    rng = np.random.default_rng(1)
    return {
        "w1": jnp.asarray(rng.normal(size=(4, 8)), jnp.float32),
        "b1": jnp.zeros(8),
        "w2": jnp.asarray(rng.normal(size=(8, 3)), jnp.float32),
        "b2": jnp.zeros(3),
    }
