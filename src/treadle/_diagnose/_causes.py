"""Why a program was compiled again: what differs from the nearest one before, and what to do."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from ..tree._diff import diff
from ..tree._difference import Difference
from ..tree._match import some
from ._signature import Snapshot, same_place

_TOLD = 6


class _Change(NamedTuple):
    """One thing that differs; those that differ alike are told together.

    Attributes:
        path: Where.
        what: `"shape (128, 784) → (96, 784)"`.
        advice: What to do about it.
        alike: What changes must share to be told as one.
    """

    path: str
    what: str
    advice: str
    alike: Any


def cause(old: Snapshot, new: Snapshot, axis: int) -> str:
    """What changed from one call to another, leaf by leaf, each with its way out.

    Args:
        old: The call that is most like the new one.
        new: The call that compiled.
        axis: Which axis of the batch counts its examples.
    """
    found = list(_changes(old, new, axis))
    if not found:
        return (
            "nothing that is compared changed: were JAX's caches cleared (`jax.clear_caches()`), "
            "or an option of it set that has no name here?"
        )
    groups: dict[Any, list[_Change]] = {}
    for change in found:
        groups.setdefault(change.alike, []).append(change)
    return some(map(_told, groups.values()), _TOLD, "; ")


def _told(group: list[_Change]) -> str:
    first, others = group[0], len(group) - 1
    more = f" (and {others} more alike)" if others else ""
    return f"{first.path}: {first.what}{more}" + (f": {first.advice}" if first.advice else "")


def _changes(old: Snapshot, new: Snapshot, axis: int) -> Iterator[_Change]:
    differences = [each for each in diff(old.trees, new.trees) if each.kind != "sharding"]
    examples = _examples(old, new, differences, axis)
    for each in differences:
        was, now = old.leaves.get(each.path), new.leaves.get(each.path)
        if isinstance(was, jax.ShapeDtypeStruct) and isinstance(now, jax.ShapeDtypeStruct):
            yield from _of_array(each, was, now, examples)
        else:
            yield _of_structure(each)
    for path, now in new.leaves.items():
        was = old.leaves.get(path)
        if isinstance(was, jax.ShapeDtypeStruct) and isinstance(now, jax.ShapeDtypeStruct):
            yield from _of_place(path, was, now)
    for name, value in new.settings.items():
        if old.settings[name] != value:
            what = f"{old.settings[name]} → {value}"
            yield _Change(name, what, "set it once, before the first step", name)


def _examples(
    old: Snapshot, new: Snapshot, differences: list[Difference], axis: int
) -> tuple[int, int] | None:
    """The sizes of the two batches, where those are all that differs in every leaf of them."""
    sizes = set()
    batch = [path for path in new.leaves if _is_of(path, "batch")]
    if len({each.path for each in differences if each.kind == "shape"} & set(batch)) != len(batch):
        return None
    for path in batch:
        was, now = old.leaves[path].shape, new.leaves[path].shape
        if len(was) != len(now) or len(was) <= axis:
            return None
        if was[:axis] != now[:axis] or was[axis + 1 :] != now[axis + 1 :]:
            return None
        sizes.add((was[axis], now[axis]))
    return sizes.pop() if len(sizes) == 1 else None


def _is_of(path: str, argument: str) -> bool:
    return path == argument or path.startswith(f"{argument}/")


def _of_array(
    each: Difference, was: Any, now: Any, examples: tuple[int, int] | None
) -> Iterator[_Change]:
    path = each.path
    if each.kind == "shape":
        what = f"shape {was.shape} → {now.shape}"
        advice = _of_shape(path, examples)
        # Of the state or of a longer sequence the leaves differ, and the advice is one.
        yield _Change(path, what, advice, ("shape", advice))
    elif each.kind == "dtype":
        advice = (
            "one of them came from a Python number: `jnp.asarray(x, dtype)` keeps it what it is"
            if was.weak_type or now.weak_type
            else f"make it the same each time, such as by `x.astype({was.dtype})`"
        )
        what = f"dtype {was.dtype} → {now.dtype}"
        yield _Change(path, what, advice, (what, advice))
    elif each.kind == "weak type" and was.dtype == now.dtype:
        weak = f"weakly typed {now.dtype}"
        what = f"{now.dtype} → {weak}" if now.weak_type else f"{weak} → {now.dtype}"
        which = "it" if now.weak_type else "the one before"
        advice = f"{which} came from a Python number: `jnp.asarray(x, {now.dtype})`"
        yield _Change(path, what, advice, (what, advice))


def _of_shape(path: str, examples: tuple[int, int] | None) -> str:
    if _is_of(path, "batch"):
        if examples is None:
            return (
                "each shape compiles a program of its own: pad to one length, or to a few, and "
                "give what fills up the weight 0 (`treadle.Weighted`)"
            )
        was, now = examples
        if now < was:
            return (
                f"the last batch is ragged: `treadle.data.arrays(..., drop_remainder=True)` drops "
                f"it; or fill it up to {was} examples, those of weight 0 (`treadle.Weighted`)"
            )
        return (
            f"batches are of several sizes: make all of {now} examples, or fill up the smaller "
            f"ones with examples of weight 0 (`treadle.Weighted`)"
        )
    if _is_of(path, "args"):
        return "each shape of `args` compiles a program of its own: keep it, or pad it"
    return "it is another model or optimizer: one compilation for each is as it must be"


def _of_place(path: str, was: Any, now: Any) -> Iterator[_Change]:
    if same_place(was, now):
        return
    argument = path.split("/")[0]
    what = f"{_place(was)} → {_place(now)}"
    advice = (
        f"put the `{argument}` in one place, before the loop: `jax.device_put(x, sharding)`"
        if argument == "state"
        else f"put every `{argument}` in the same place: `jax.device_put(x, sharding)`"
    )
    yield _Change(path, what, advice, (argument, what))


def _place(leaf: Any) -> str:
    sharding = leaf.sharding
    if sharding is None:
        return "not committed to a device"
    if isinstance(sharding, jax.sharding.NamedSharding):
        axes = ", ".join(f"{name}={size}" for name, size in sharding.mesh.shape.items())
        return f"sharded by {sharding.spec} over {axes}"
    if isinstance(sharding, jax.sharding.SingleDeviceSharding):
        (device,) = sharding.device_set
        return f"committed to {device}"
    return f"sharded by {sharding}"


_NUMBER = (
    "a Python number inside of a module is part of the program: `jnp.asarray({}, dtype)` makes it "
    "an argument of it"
)


def _of_structure(each: Difference) -> _Change:
    what = f"{each.a or 'absent'} → {each.b or 'absent'}"
    advice = _advice(each)
    # The optimizer's moments are modules like the model, with the same static fields.
    return _Change(each.path, what, advice, (what, advice))


def _advice(each: Difference) -> str:
    numbers = [_is_number(text) for text in (each.a, each.b)]
    if each.path == "state/active":
        return "the first member that stands still: once, and meant so"
    if all(numbers):
        return _NUMBER.format(each.b)
    if any(numbers) and each.kind in ("type", "leaf", "static"):
        return "a Python number and an array make two programs: keep it the same, an array"
    if each.kind == "static":
        return "a static field is part of the program: what changes from step to step is an array"
    if each.kind == "leaf":
        return (
            "what is no array is part of the program: a function that is made anew each time (a "
            "`lambda`, a partial) is another one each time"
        )
    if each.kind == "type" and "None" in (each.a, each.b):
        return "with it and without it are two programs"
    if each.kind in ("type", "key", "order"):
        return "the same containers each time make the same program"
    argument = each.path.split("/")[0]
    return f"`{argument}` has another structure: each compiles a program of its own"


def _is_number(text: str) -> bool:
    try:
        complex(text)
    except ValueError:
        return text in ("True", "False")
    return True
