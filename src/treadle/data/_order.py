"""The order of an epoch: a function of the key and the epoch, never carried along."""

import jax
import numpy as np
from jaxtyping import Int

from .._custom_types import PRNGKey
from .._random import DATA_ORDER


def order_words(key: PRNGKey) -> tuple[int, ...]:
    """The root of the stream that orders data, apart from every other stream of `key`.

    As plain numbers: deriving an epoch's key on the device would wait there, behind all the steps
    that were dispatched before it.
    """
    return tuple(np.asarray(jax.random.key_data(jax.random.fold_in(key, DATA_ORDER))).tolist())


def epoch_order(root: tuple[int, ...], epoch: int, num_examples: int) -> Int[np.ndarray, " n"]:
    """The permutation of `range(num_examples)` in which epoch `epoch` visits the examples.

    Args:
        root: What `order_words` gave.
        epoch: Which epoch, from 0.
        num_examples: How many there are.
    """
    # Not `jax.random.permutation`: on CPU it takes seconds for ten million examples, and it would
    # sit on the device in the way of training. Not NumPy's `permutation` either: NEP 19 lets its
    # algorithm change between releases, and a run resumed under a newer NumPy would see another
    # order. What NEP 19 holds still is the raw stream of a bit generator, so the examples are
    # sorted by raw 64-bit draws. The low bits of a draw give way to the example's index: no two
    # are equal, so every sorting algorithm gives the same order (that NumPy picks one by the CPU
    # does not matter), and sorting values is ten times as fast as `argsort`.
    seed = np.random.SeedSequence(root, spawn_key=(epoch,))
    draws = np.random.Philox(seed).random_raw(num_examples)
    index_bits = np.uint64((1 << (num_examples - 1).bit_length()) - 1)
    draws &= ~index_bits
    draws |= np.arange(num_examples, dtype=np.uint64)
    draws.sort()
    draws &= index_bits
    return draws.view(np.int64)
