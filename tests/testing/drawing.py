"""What the tests of strategies share: drawing many, pasting code, comparing bit for bit."""

import collections
import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import Phase, given, seed, settings

import treadle
from treadle.testing import pool

NAMES = {
    "collections": collections,
    "functools": functools,
    "eqx": eqx,
    "jax": jax,
    "jnp": jnp,
    "np": np,
    "optax": optax,
    "treadle": treadle,
    "pool": pool,
}
"""What the docstring of `treadle.testing.code` says to import."""


def drawn(strategy, count, start=None):
    """So many of a strategy, the same ones each time, under the default health checks.

    `start` gives others: hypothesis keeps to what is like its first examples.
    """
    found = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=start is None,
        deadline=None,
        phases=[Phase.generate],
    )
    @given(strategy)
    def draw(value):
        found.append(value)

    (draw if start is None else seed(start)(draw))()
    return found


def shrunk(strategy, fails):
    """What hypothesis reports of a test that fails where `fails` says so: code and value."""
    last = []

    @settings(
        max_examples=500,
        database=None,
        derandomize=True,
        deadline=None,
        # Which arguments do not matter takes hundreds of examples to find out.
        phases=[Phase.generate, Phase.shrink],
        print_blob=False,
    )
    @given(strategy)
    def case(value):
        if fails(value):
            last.append(value)
            raise AssertionError("as it should")

    try:
        case()
    except AssertionError as error:
        report = "\n".join(error.__notes__)
    else:
        raise LookupError("no example fails")
    # The last line ends with a comma; what follows the call are hints how to run it again.
    code = re.search(r"case\(\n\s+value=(.*?),(\s*#.*)?\n\)", report, re.DOTALL)[1]
    return code, last[-1]


class Uncompiled:
    """`jax.numpy`, but for what compiles a program for each shape and dtype: that by NumPy.

    What `jax.numpy` itself makes of such code is tested on arrays.
    """

    def __getattr__(self, name):
        return getattr(jnp, name)

    def zeros(self, *args):
        return jax.device_put(np.zeros(*args))

    def ones(self, *args):
        return jax.device_put(np.ones(*args))

    def full(self, *args):
        return jax.device_put(np.full(*args))

    def array(self, *args):
        return jax.device_put(np.array(*args))


def paste(code, **names):
    """The value of an expression, with the imports that go with it."""
    return eval(code, {**NAMES, **names})


def bits(leaf):
    """Everything there is to know of a leaf."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return "key", str(jax.random.key_impl(leaf)), bits(jax.random.key_data(leaf))
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        host = np.asarray(leaf)
        weak = getattr(leaf, "weak_type", False)
        return type(leaf), host.dtype, host.shape, weak, host.tobytes()
    if isinstance(leaf, float | complex):
        return type(leaf), np.asarray(leaf).tobytes()
    if isinstance(leaf, functools.partial):
        return "partial", bits(leaf.func), [*map(bits, leaf.args)], repr(leaf.keywords)
    if isinstance(leaf, eqx.nn._shared.SharedNode):
        return "SharedNode"
    return type(leaf), leaf


def aliases(leaves):
    """For each array the first place where it stands."""
    first = {}
    arrays = [(at, leaf) for at, leaf in enumerate(leaves) if eqx.is_array(leaf)]
    return [first.setdefault(id(leaf), at) for at, leaf in arrays]


def assert_identical(a, b):
    """The same structure, static fields, bits, dtypes, weak types, and shared leaves."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    one, two = jax.tree.leaves(a), jax.tree.leaves(b)
    assert [*map(bits, one)] == [*map(bits, two)]
    assert aliases(one) == aliases(two)
