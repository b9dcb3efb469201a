"""What a model is made of, module by module."""

import dataclasses
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PyTree

from ._forward import Forward, forward
from ._paths import join, path_of
from ._size import first_seen, leaf_nbytes
from ._sized import is_sized
from ._summary_table import Summary, SummaryRow
from ._tie import Tied, TiedTo
from ._where import Where, leaf_mask

_LETTERS = {"bfloat": "bf", "float": "f", "uint": "u", "int": "i", "complex": "c"}


@dataclasses.dataclass(frozen=True)
class _Module:
    path: str
    type: str
    slots: tuple[int, ...]
    """Its own leaves, as indices into all leaves of the model."""
    is_listed: bool
    """Whether it gets a row in any case, and not only where it has operations of its own."""
    tied: tuple[str, ...]
    """What of it is tied to another place, in words."""


@dataclasses.dataclass(frozen=True)
class _Leaf:
    path: str
    name: str
    value: Any


def _modules(node: PyTree, path: str, leaves: list[_Leaf], root: str = "") -> list[_Module]:
    """`node` and the modules inside it; fills `leaves` in the order of JAX's.

    Args:
        node: A module, or the whole tree.
        path: Where it is.
        leaves: Those found before.
        root: Where the tied model is that it belongs to.
    """
    if isinstance(node, Tied):
        return _modules(node.shared.pytree, path, leaves, path)
    children, _ = jtu.tree_flatten_with_path(
        node, is_leaf=lambda child: child is not node and isinstance(child, eqx.Module)
    )
    own: list[int] = []
    inner: list[_Module] = []
    tied: list[str] = []
    for keys, child in children:
        name = path_of(keys)
        if isinstance(child, TiedTo):
            tied.append(f"{name} = {join(root, child.path)}")
        elif isinstance(child, eqx.Module) and child is not node:
            inner += _modules(child, join(path, name), leaves, root)
        else:
            own.append(len(leaves))
            leaves.append(_Leaf(join(path, name), name, child))
    has_arrays = bool(tied) or any(is_sized(leaves[slot].value) for slot in own)
    # A mere container, or a marker such as those of Equinox's state, is left out.
    is_part = not any(module.is_listed for module in inner) and (not path or callable(node))
    name = type(node).__name__
    module = _Module(path, name, tuple(own), has_arrays or is_part, tuple(tied))
    return [module, *inner]


def _shape_text(leaf: Any) -> str:
    dtype = re.sub(
        r"^(bfloat|float|uint|int|complex)(?=\d)", lambda m: _LETTERS[m[1]], str(leaf.dtype)
    )
    return f"{dtype}[{','.join(map(str, leaf.shape))}]"


def _output_text(output: PyTree) -> str:
    shapes = [_shape_text(leaf) for leaf in jax.tree.leaves(output)]
    return shapes[0] if len(shapes) == 1 else f"({', '.join(shapes)})"


@dataclasses.dataclass(frozen=True)
class _Model:
    """What rows are made from."""

    leaves: list[_Leaf]
    first: list[int]
    """For each leaf, where the same array stands first."""
    mask: list[bool]
    """For each leaf, whether it is trained."""
    passed: Forward | None

    def arrays_text(self, slot: int) -> str:
        leaf, first = self.leaves[slot], self.first[slot]
        if first != slot:
            return f"{leaf.name} = {self.leaves[first].path}"
        return f"{leaf.name} {_shape_text(leaf.value)}".strip()

    def count(self, slots: list[int]) -> int:
        return sum(int(self.leaves[slot].value.size) for slot in slots)

    def nbytes(self, slots: list[int]) -> int:
        return sum(leaf_nbytes(self.leaves[slot].value) for slot in slots)

    def outputs(self, path: str) -> tuple[str, ...]:
        calls = self.passed.outputs.get(path, []) if self.passed else []
        return tuple(map(_output_text, calls))

    def flops(self, path: str) -> int | None:
        if self.passed is None:
            return None
        flops = self.passed.flops.get(path)
        return int(flops.total + flops.elementwise) if flops else 0


def _row(module: _Module, model: _Model) -> SummaryRow:
    sized = [slot for slot in module.slots if is_sized(model.leaves[slot].value)]
    counted = [slot for slot in sized if model.first[slot] == slot]
    trained = [slot for slot in counted if model.mask[slot]]
    return SummaryRow(
        path=module.path,
        type=module.type,
        arrays=(*map(model.arrays_text, sized), *module.tied),
        output=model.outputs(module.path),
        count=model.count(counted),
        nbytes=model.nbytes(counted),
        flops=model.flops(module.path),
        trainable_count=model.count(trained),
        trainable_nbytes=model.nbytes(trained),
    )


def is_floating(leaf: Any) -> bool:
    """Whether `leaf` is an array of floats or complex numbers, or stands for one."""
    return is_sized(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def summary(model: PyTree, *example: Any, trainable: Where = is_floating) -> Summary:
    """What a model is made of: its modules, the arrays they hold, what they return and cost.

    A module counts its own arrays, not those of modules inside it; an array that is several
    leaves (tied weights) is counted where it stands first. So the totals are those of
    `treadle.tree.count(model)` and `treadle.tree.nbytes(model)`.

    Floating point operations likewise: a module has those of its own code, in all of its calls,
    under `jax.vmap` as often as there are examples and in a `jax.lax.scan` as often as it runs;
    not those of modules that it calls. So the shares sum to 100 %. Counted is the program as JAX
    traced it, without what no output needs: two for each multiplication and addition of a matrix
    product or a convolution, and one for each element of all other arithmetic, such that norms
    and activations have a share too. (`treadle.Compiled.model_flops` counts products only.)

    Args:
        model: Any pytree; in practice an `equinox.Module`.
        example: Arguments to call it with, as in `model(*example)`: arrays, or
            `jax.ShapeDtypeStruct`s in their place; one example, not a batch, for a model that is
            called on one, and a state where it takes one. Then what each module returns is told,
            and its share of the operations. Nothing is computed, and the model is in inference
            mode: it needs no key. A keyword is given with `eqx.Partial(model, name=value)`.
        trainable: Which leaves are trained, as for `treadle.TrainStep`: a filter function, a
            selector, globs, or a prefix with bools as leaves. Only arrays of floats ever are.

    Raises:
        TreeError: If a glob in `trainable` matches nothing, or a prefix does not fit.
        ArgumentTypeError: If `trainable` is none of what it can be, or there is an example and
            `model` cannot be called with it.

    Example:
        >>> model = treadle.nn.MLP(784, 10, width=256, depth=2, key=jax.random.key(0))
        >>> print(treadle.tree.summary(model, jnp.zeros(784)))
    """
    passed = forward(model, *example) if example else None
    leaves: list[_Leaf] = []
    modules = _modules(model, "", leaves)
    flags = jax.tree.leaves(leaf_mask(trainable, model, "trainable"))
    mask = [yes and is_floating(leaf.value) for yes, leaf in zip(flags, leaves, strict=True)]
    parts = _Model(leaves, _first_arrays(leaves), mask, passed)
    rows = [_row(module, parts) for module in modules if module.is_listed or _costs(module, passed)]
    whole = parts.outputs("")
    return Summary(tuple(rows), whole[-1] if whole else "", _notes(passed))


def _costs(module: _Module, passed: Forward | None) -> bool:
    return passed is not None and module.path in passed.flops


def _notes(passed: Forward | None) -> tuple[str, ...]:
    parts = passed.flops.values() if passed else ()
    return tuple(dict.fromkeys(note for flops in parts for note in flops.notes))


def _first_arrays(leaves: list[_Leaf]) -> list[int]:
    # Small numbers, None and functions are shared by all Python: only arrays can be tied.
    sized = [at for at, leaf in enumerate(leaves) if is_sized(leaf.value)]
    first = list(range(len(leaves)))
    for at, seen in zip(sized, first_seen([leaves[at].value for at in sized]), strict=True):
        first[at] = sized[seen]
    return first
