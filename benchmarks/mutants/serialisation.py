"""`check_serialisation`: formats for files."""

import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from treadle.testing import arrays, check_serialisation, keys, modules, pytrees, train_states

from ._subject import Subject
from ._trees import is_array, is_float, is_integer, is_key, is_numpy, on

_TREES = pytrees(special=True)
Save = Callable[[pathlib.Path, Any], Any]
Load = Callable[[pathlib.Path, Any], Any]


def _host(leaf: Any) -> Any:
    """What is written of an array, in place of what JAX alone can read."""
    if is_key(leaf):
        return np.asarray(jax.random.key_data(leaf)), str(jax.random.key_impl(leaf))
    return np.asarray(leaf)


def _arrays(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]


def _save(path: pathlib.Path, tree: Any) -> None:
    path.write_bytes(pickle.dumps([_host(leaf) for leaf in _arrays(tree)]))


def _filled(like: Any, values: list[Any]) -> Any:
    """Puts arrays where the tree has some."""
    rest = iter(values)
    return jax.tree.map(
        lambda leaf: _placed(next(rest), leaf) if eqx.is_array(leaf) else leaf, like
    )


def _placed(value: Any, like: Any) -> Any:
    if is_key(like):
        words, implementation = value
        return jax.random.wrap_key_data(jnp.asarray(words), impl=implementation)
    return (
        value[()]
        if isinstance(like, np.generic)
        else value
        if is_numpy(like)
        else jax.device_put(value)
    )


def _load(path: pathlib.Path, like: Any) -> Any:
    return _filled(like, pickle.loads(path.read_bytes()))


def _edited(edit: Callable[[Any], Any]) -> Save:
    """Saves what `edit` makes of the tree."""
    return lambda path, tree: _save(path, edit(tree))


def _half(leaf: Any) -> Any:
    return leaf.astype("float16").astype(leaf.dtype)


def _through_text(leaf: Any) -> Any:
    """Six digits."""
    words = [f"{value:g}" for value in np.asarray(leaf, np.float32).reshape(-1)]
    return jax.device_put(np.array(words, "float32").reshape(leaf.shape).astype(leaf.dtype))


def _save_in_place(path: pathlib.Path, tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        if is_numpy(leaf) and leaf.dtype.kind == "f":
            np.nan_to_num(leaf, copy=False)
    _save(path, tree)


def _load_reversed(path: pathlib.Path, like: Any) -> Any:
    return _filled(like, pickle.loads(path.read_bytes())[::-1])


def _load_default_keys(path: pathlib.Path, like: Any) -> Any:
    """The first two words of each key, whatever its implementation."""
    return on(is_key, lambda key: jax.random.wrap_key_data(jax.random.key_data(key)[..., :2]))(
        _load(path, like)
    )


def _load_like(path: pathlib.Path, like: Any) -> Any:
    """Keeps what is a scalar as it is."""
    loaded = _load(path, like)
    return jax.tree.map(
        lambda old, new: old if is_array(old) and old.ndim == 0 else new, like, loaded
    )


def _load_jax(path: pathlib.Path, like: Any) -> Any:
    return on(is_numpy, jax.device_put)(_load(path, like))


def _load_into(path: pathlib.Path, like: Any) -> Any:
    """Into the memory of the NumPy arrays that are there."""
    loaded = _load(path, like)

    def leaf(old: Any, new: Any) -> Any:
        if is_numpy(old):
            old[...] = new
            return old
        return new

    return jax.tree.map(leaf, like, loaded)


def _save_once(path: pathlib.Path, tree: Any) -> None:
    """An array that stands at two places is written once."""
    seen: dict[int, Any] = {id(leaf): leaf for leaf in _arrays(tree)}
    path.write_bytes(pickle.dumps([_host(leaf) for leaf in seen.values()]))


def _load_cyclic(path: pathlib.Path, like: Any) -> Any:
    values = pickle.loads(path.read_bytes())
    count = len(_arrays(like))
    return _filled(like, [values[at % len(values)] for at in range(count)])


def _broken(name: str, save: Save = _save, load: Load = _load, strategy: Any = _TREES) -> Subject:
    return Subject(
        "check_serialisation",
        name,
        strategy,
        lambda tree: check_serialisation(tree, save=save, load=load),
    )


_HALVES = pytrees(arrays("float32", special=True))

SUBJECTS = (
    _broken("pickled arrays")._replace(right=True),
    _broken("pickled states of training", strategy=train_states())._replace(right=True),
    Subject(
        "check_serialisation",
        "treadle.save",
        modules(special=True),
        check_serialisation,
        right=True,
    ),
    Subject(
        "check_serialisation",
        "treadle.save of a state",
        train_states(),
        check_serialisation,
        right=True,
    ),
    _broken("float16 in the file", _edited(on(is_float, _half)), strategy=_HALVES),
    _broken("six digits in the file", _edited(on(is_float, _through_text)), strategy=_HALVES),
    _broken(
        "NaNs are one NaN in the file",
        _edited(on(is_float, lambda x: jnp.where(x != x, jnp.nan, x).astype(x.dtype))),
        strategy=pytrees(dtype="float", special=True),
    ),
    _broken(
        "integers are floats in the file",
        _edited(on(is_integer, lambda x: x.astype("float32").astype(x.dtype))),
        strategy=pytrees(dtype=["int32", "uint32"]),
    ),
    _broken("arrays come in the other order", load=_load_reversed, strategy=_HALVES),
    _broken("an array at two places is written once", _save_once, _load_cyclic, modules()),
    _broken("hands back the scalars it was given", load=_load_like),
    _broken(
        "keys come back with the default implementation",
        load=_load_default_keys,
        strategy=pytrees(keys()),
    ),
    _broken("NumPy arrays come back as JAX's", load=_load_jax),
    _broken("loads into the arrays it was given", load=_load_into),
    _broken(
        "replaces NaN in place before it saves",
        _save_in_place,
        strategy=pytrees(arrays("float", kind="any", special=True)),
    ),
)
