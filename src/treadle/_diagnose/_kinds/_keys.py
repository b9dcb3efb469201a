"""Keys: used twice, missing, or not keys."""

import re

from jax.errors import KeyReuseError

from .._note import Explanation
from .._raised import Raised, causes

_SPLIT = "one key for each draw: `key, sub = jax.random.split(key)`, and draw with `sub`"
_NOT_ONE = re.compile(r"accepts a single key, but was given a key array of shape (\(.*?\)) != \(\)")


def explain_keys(raised: Raised) -> Explanation | None:
    """What goes wrong with `jax.random` keys."""
    if isinstance(raised.error, KeyReuseError):
        before = (
            "in each turn of a loop, unchanged"
            if "repeatedly" in raised.message
            else f"that was consumed before{_first(raised)}"
        )
        return Explanation(
            f"A key is consumed here {before}: what is drawn from it is the same each time.",
            f"{_SPLIT}.",
            "keyreuseerror",
            ("rules/key-reuse/", "guides/randomness/"),
        )
    if raised.by_user:
        return None
    message = raised.message
    if "Dropout requires a key when running in non-deterministic mode" in message:
        return Explanation(
            "A dropout layer in training mode was called without a key, so it cannot draw.",
            "hand the loss's key on: `model(x, key=key)`, and in the model `self.dropout(x, "
            "key=key)`; for evaluation, `model = eqx.nn.inference_mode(model)` needs no key.",
            "dropout-requires-a-key",
            ("guides/randomness/",),
        )
    if "invalid PRNG key data" in message:
        return Explanation(
            "`jax.random` was given something else than a key, such as a seed or a part of one.",
            "make a key of the seed, once: `key = jax.random.key(0)`.",
            "unexpected-prng-key-type",
            ("guides/randomness/",),
        )
    if "unexpected PRNG key type" in message:
        none = "NoneType" in message
        return Explanation(
            "`jax.random` was given `None`: no key was handed on."
            if none
            else "`jax.random` was given something else than a key.",
            "hand one down from the caller: `model(x, key=key)`; the first is made by `key = "
            "jax.random.key(0)`.",
            "unexpected-prng-key-type",
            ("guides/randomness/",),
        )
    shape = _NOT_ONE.search(message)
    if shape:
        return Explanation(
            f"`jax.random` draws with one key, and got an array of keys of shape {shape[1]}.",
            "`jax.vmap(lambda key: jax.random.normal(key, shape))(keys)` draws once for each; "
            "`keys[0]` is one of them.",
            "accepts-a-single-key",
            ("guides/randomness/",),
        )
    return None


def _first(raised: Raised) -> str:
    """Where it was consumed before, where JAX says so: outside of compiled functions."""
    for cause in causes(raised.error):
        if isinstance(cause, KeyReuseError):
            first = Raised(cause).user
            return "" if first is None else f" at {first.place.short}"
    return ""
