"""Typed keys and the words that they are made of, and keys that are constants of a program."""

from typing import Any

import jax
import numpy as np

from .._private import is_array_of_keys, key_words
from ._values import Value, fresh, is_followed, mixed, of_integers, salt

_WORD = salt("word")


def words_of(keys: Any, count: int) -> Any:
    """The words of keys, along a new last axis."""
    places = of_integers(np.arange(count)).ids
    words = np.asarray(mixed(_WORD, keys[..., None], places))
    for word, key in zip(
        words.reshape(-1, count)[:, 0].tolist(), np.asarray(keys).ravel().tolist(), strict=True
    ):
        _KEY_OF_WORD[word] = key
    return words


_KEY_OF_WORD: dict[int, int] = {}


def wrapped(words: Any, aval: Any) -> Any:
    """The keys with such words."""
    count = int(np.prod(key_words(aval)))
    return wrapped_words(words.reshape(-1, count)).reshape(aval.shape)


def wrapped_words(words: Any) -> Any:
    """The keys whose words lie along the last axis."""
    count = words.shape[-1]
    rows = words.reshape(-1, count)
    keys = np.asarray(mixed(salt("wrap"), *(rows[:, at] for at in range(count)))).reshape(-1)
    for at, row in enumerate(rows[:, 0].tolist()):
        key = _KEY_OF_WORD.get(row)
        if key is not None:
            whole_key = np.uint64(key)
            if np.array_equal(
                rows[at], np.asarray(mixed(_WORD, whole_key, of_integers(np.arange(count)).ids))
            ):
                keys[at] = whole_key
    return keys.reshape(words.shape[:-1])


def constant_value(value: Any, aval: Any) -> Value:
    """A constant of the program."""
    if is_followed(aval) and not is_array_of_keys(aval):
        return of_integers(np.asarray(value).reshape(aval.shape))
    if is_followed(aval):
        words = np.asarray(jax.random.key_data(value))
        count = int(np.prod(key_words(aval)))
        parts = of_integers(words.reshape(*aval.shape, count)).ids
        return Value(wrapped(parts, aval))
    return Value(None, fresh(True))
