"""Strict JAX for every test, several devices, and keys on demand."""

import os

# Before JAX is imported: four CPU devices, so that nothing gets used to there being one; and no
# compilation cache outside the tests' own.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("TREADLE_CACHE", "off")

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling takes most of an example's time, so deadlines would measure XLA; and the same examples
# each time, so that a red build is red again when somebody looks.
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=20, derandomize=True, print_blob=True
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def getkey():
    """A function that gives another key at each call, the same ones in each run."""
    count = 0

    def next_key() -> jax.Array:
        nonlocal count
        count += 1
        return jax.random.key(5678 + count)

    return next_key
