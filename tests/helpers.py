"""What the tests share: small models, losses and batches, and comparing trees."""

import os
import re
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


class Net(eqx.Module):
    """A small classifier with dropout."""

    first: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    last: eqx.nn.Linear

    def __init__(self, key, *, in_size=6, width=8, out_size=3, dropout=0.5):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(in_size, width, key=one)
        self.dropout = eqx.nn.Dropout(dropout)
        self.last = eqx.nn.Linear(width, out_size, key=two)

    def __call__(self, x, *, key=None):
        return self.last(self.dropout(jax.nn.tanh(self.first(x)), key=key))


def loss_fn(model, example, key):
    """Cross-entropy with an aux, for one example."""
    x, y = example
    logits = model(x, key=key)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return loss, {"accuracy": jnp.argmax(logits) == y}


def make_batch(size=8, *, seed=0, in_size=6, classes=3):
    """NumPy images and labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, in_size)).astype(np.float32)
    return x, rng.integers(0, classes, size=size).astype(np.int32)


def exactly(message):
    """The pattern for `pytest.raises(match=...)` of a message from its first to its last letter."""
    return rf"\A{re.escape(message)}\Z"


def leaves_of(tree):
    """Arrays as NumPy, typed keys as their data."""
    found = []
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found.append(np.asarray(leaf) if eqx.is_array_like(leaf) else leaf)
    return found


def assert_same(a, b):
    """The same structure, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(leaves_of(a), leaves_of(b), strict=True):
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            assert x.shape == y.shape
            # Of Python's long integers the bytes are where they lie.
            same = x == y if x.dtype == object else x.tobytes() == y.tobytes()
            assert same, (x, y)
        else:
            assert x is y or x == y


def assert_close(a, b, *, rtol=1e-5, atol=1e-6):
    """The same structure and dtypes, and values that are close."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(leaves_of(a), leaves_of(b), strict=True):
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)
        else:
            assert x is y or x == y


def listed(folder):
    """The names in a folder of checkpoints, sorted; not the lock of whoever may write there."""
    return sorted(name for name in os.listdir(folder) if name != ".lock")


def script_environment():
    """Variables with which a process of its own finds what the tests find."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"}


def run_script(script, *arguments):
    """Runs Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=script_environment(),
    )
