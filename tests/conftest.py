"""Strict JAX for every test, several devices, and keys on demand."""

import gc
import os
import pathlib
import signal

from tests.compiling import OPTIMISED, quick_flags

# Before JAX is imported: four CPU devices, so that nothing gets used to there being one; and no
# compilation cache outside the tests' own.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} {quick_flags()} --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("TREADLE_CACHE", "off")

import hypothesis
import jax
import pytest

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them press.
signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling takes most of an example's time, so deadlines would measure XLA; and the same examples
# each time, so that a red build is red again when somebody looks.
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=20, derandomize=True, print_blob=True
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems(items):
    if OPTIMISED:
        return
    skip = pytest.mark.skip(reason="of optimised programs: TREADLE_TESTS=optimised")
    for item in items:
        marker = item.get_closest_marker("optimised")
        if marker is not None and marker.kwargs.get("only"):
            item.add_marker(skip)


# A process may have 65,530 maps of memory, and each compiled program takes a few: the whole suite
# in two processes comes to them, and XLA then ends the process.
MAPS = pathlib.Path("/proc/self/maps")
MANY_MAPS = 20_000


@pytest.fixture(scope="module", autouse=True)
def few_maps():
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def getkey():
    """A function that gives another key at each call, the same ones in each run."""
    count = 0

    def next_key() -> jax.Array:
        nonlocal count
        count += 1
        return jax.random.key(5678 + count)

    return next_key
