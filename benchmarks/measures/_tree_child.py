"""The process of `tree`: each function of `treadle.tree` beside a bare pass of `jax.tree`."""

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from treadle import tree as trees

Call = Callable[[], Any]


class _Layer(eqx.Module):
    weight: jax.Array
    bias: jax.Array


class _Model(eqx.Module):
    layers: list[_Layer]


class Subject(NamedTuple):
    """A function of ours, and the bare pass that it is measured against."""

    ours: Call
    bare: Call


def times(leaves: int, turns: int) -> dict[str, list[list[float]]]:
    """Milliseconds of `[ours, bare]`, by shape of the tree and function, turn by turn."""
    found: dict[str, list[list[float]]] = {}
    for shape, tree in _trees(leaves).items():
        subjects = _subjects(tree)
        for subject in subjects.values():
            subject.ours(), subject.bare()
        for _ in range(turns):
            for name, subject in subjects.items():
                computes = name in _COMPUTING
                pair = [_milliseconds(call, computes) for call in subject]
                found.setdefault(f"{shape}/{name}", []).append(pair)
    return found


def _milliseconds(call: Call, computes: bool) -> float:
    # As `timeit` does: whose turn the collector comes in is chance.
    gc.disable()
    start = time.perf_counter()
    result = call()
    if computes:
        jax.block_until_ready(result)
    taken = 1e3 * (time.perf_counter() - start)
    gc.enable()
    return taken


# The others touch no array: waiting for it would be most of what is measured.
_COMPUTING = ("cast", "ema", "stack", "unstack", "migrate")


def _trees(leaves: int) -> dict[str, Any]:
    arrays = [jnp.full(3, float(at)) for at in range(leaves)]
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    return {
        "module": _Model([_Layer(*pair) for pair in pairs]),
        "dict": {f"leaf {at}": array for at, array in enumerate(arrays)},
    }


def _forget() -> None:
    trees._remember._answers.clear()


def _subjects(tree: Any) -> dict[str, Subject]:
    flat = trees.to_dict(tree)
    path = next(iter(flat))
    stacked = trees.stack([tree, tree])
    select = trees.select(path, "**")
    optimizer = optax.sgd(0.1, momentum=0.9)
    opt_state = optimizer.init(tree)

    def once() -> Any:
        return jax.tree.map(lambda leaf: leaf, tree)

    def named() -> Any:
        return jax.tree_util.tree_map_with_path(lambda _, leaf: leaf, tree)

    def first_paths() -> Any:
        _forget()
        return trees.paths(tree)

    def migrate() -> Any:
        return trees.migrate(opt_state, tree, tree, optimizer)

    def bare_stack() -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), tree, tree)

    def bare_unstack() -> Any:
        return [jax.tree.map(lambda leaf, at=at: leaf[at], stacked) for at in range(2)]

    def bare_ema() -> Any:
        return jax.tree.map(lambda old, new: 0.5 * old + 0.5 * new, tree, tree)

    return {
        "paths": Subject(lambda: trees.paths(tree), once),
        "paths, first time": Subject(first_paths, named),
        "select": Subject(lambda: select(tree), once),
        "to_dict": Subject(lambda: trees.to_dict(tree), once),
        "from_dict": Subject(lambda: trees.from_dict(flat, tree), once),
        "replace": Subject(lambda: trees.replace(tree, {path: flat[path]}), once),
        "count": Subject(lambda: trees.count(tree), once),
        "nbytes": Subject(lambda: trees.nbytes(tree), once),
        "shapes": Subject(lambda: trees.shapes(tree), once),
        "cast": Subject(
            lambda: trees.cast(tree, jnp.bfloat16),
            lambda: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree),
        ),
        "ema": Subject(lambda: trees.ema(tree, tree, 0.5), bare_ema),
        "stack": Subject(lambda: trees.stack([tree, tree]), bare_stack),
        "unstack": Subject(lambda: trees.unstack(stacked), bare_unstack),
        "migrate": Subject(migrate, lambda: optimizer.init(tree)),
    }
