"""A table of what a model is made of."""

import dataclasses
import io
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PyTree

from ._outputs import outputs
from ._paths import join, path_of
from ._size import first_seen, is_sized, leaf_nbytes
from ._where import Where, leaf_mask

_WIDTH = 110
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_LETTERS = {"bfloat": "bf", "float": "f", "uint": "u", "int": "i", "complex": "c"}


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One module of a model.

    Attributes:
        path: Where it is in the model, `"layers/0"`; `""` is the model itself.
        type: Name of its class.
        arrays: Its own arrays (not those of modules inside it), as `"weight f32[8,4]"`. One that
            stands elsewhere before is counted there, and told here: `"weight = embedding/weight"`.
        output: The shapes it returned, a text for each call; empty where it was not called.
        count: Elements of its own arrays.
        nbytes: Their bytes.
        trainable_count: How many of the elements are trained.
        trainable_nbytes: Their bytes.
    """

    path: str
    type: str
    arrays: tuple[str, ...]
    output: tuple[str, ...]
    count: int
    nbytes: int
    trainable_count: int
    trainable_nbytes: int

    @property
    def trainable(self) -> str:
        """`"yes"`, `"no"` or `"partly"`; empty where there is nothing that could be."""
        if self.count == 0:
            return ""
        if self.trainable_count == 0:
            return "no"
        return "yes" if self.trainable_count == self.count else "partly"


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
    """A model's parts and their sizes; `print` shows it as a table.

    Attributes:
        rows: Every module that has arrays of its own, or no modules inside it.
        output: Shapes that the model returned; empty where no example was given.
    """

    rows: tuple[SummaryRow, ...]
    output: str

    @property
    def count(self) -> int:
        """Elements in all arrays, each array counted once."""
        return sum(row.count for row in self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, each array counted once."""
        return sum(row.nbytes for row in self.rows)

    @property
    def trainable_count(self) -> int:
        """How many of the elements are trained."""
        return sum(row.trainable_count for row in self.rows)

    @property
    def trainable_nbytes(self) -> int:
        """The bytes of what is trained."""
        return sum(row.trainable_nbytes for row in self.rows)

    def __rich__(self) -> Any:
        return _table(self)

    def __str__(self) -> str:
        from rich.console import Console  # Heavy, and of use only here.

        file = io.StringIO()
        Console(file=file, width=_WIDTH, color_system=None).print(_table(self))
        return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())

    __repr__ = __str__


@dataclasses.dataclass(frozen=True)
class _Module:
    path: str
    type: str
    slots: tuple[int, ...]
    """Its own leaves, as indices into all leaves of the model."""


@dataclasses.dataclass(frozen=True)
class _Leaf:
    path: str
    name: str
    value: Any


def _modules(node: PyTree, path: str, leaves: list[_Leaf]) -> list[_Module]:
    """`node` and the modules inside it that get a row; fills `leaves` in the order of JAX's."""
    children, _ = jtu.tree_flatten_with_path(
        node, is_leaf=lambda child: child is not node and isinstance(child, eqx.Module)
    )
    own: list[int] = []
    inner: list[_Module] = []
    for keys, child in children:
        name = path_of(keys)
        if isinstance(child, eqx.Module) and child is not node:
            inner += _modules(child, join(path, name), leaves)
        else:
            own.append(len(leaves))
            leaves.append(_Leaf(join(path, name), name, child))
    has_arrays = any(is_sized(leaves[slot].value) for slot in own)
    # A mere container, or a marker such as those of Equinox's state, is left out.
    if not has_arrays and (inner or (path and not callable(node))):
        return inner
    return [_Module(path, type(node).__name__, tuple(own)), *inner]


def _shape_text(leaf: Any) -> str:
    dtype = re.sub(
        r"^(bfloat|float|uint|int|complex)(?=\d)", lambda m: _LETTERS[m[1]], str(leaf.dtype)
    )
    return f"{dtype}[{','.join(map(str, leaf.shape))}]"


def _output_text(output: PyTree) -> str:
    shapes = [_shape_text(leaf) for leaf in jax.tree.leaves(output)]
    return shapes[0] if len(shapes) == 1 else f"({', '.join(shapes)})"


def _row(
    module: _Module, leaves: list[_Leaf], first: list[int], mask: list[bool], output: list[PyTree]
) -> SummaryRow:
    sized = [slot for slot in module.slots if is_sized(leaves[slot].value)]
    counted = [slot for slot in sized if first[slot] == slot]
    trained = [slot for slot in counted if mask[slot]]
    arrays = [
        f"{leaves[slot].name} {_shape_text(leaves[slot].value)}".strip()
        if first[slot] == slot
        else f"{leaves[slot].name} = {leaves[first[slot]].path}"
        for slot in sized
    ]
    return SummaryRow(
        path=module.path,
        type=module.type,
        arrays=tuple(arrays),
        output=tuple(_output_text(call) for call in output),
        count=sum(int(leaves[slot].value.size) for slot in counted),
        nbytes=sum(leaf_nbytes(leaves[slot].value) for slot in counted),
        trainable_count=sum(int(leaves[slot].value.size) for slot in trained),
        trainable_nbytes=sum(leaf_nbytes(leaves[slot].value) for slot in trained),
    )


def is_floating(leaf: Any) -> bool:
    """Whether `leaf` is an array of floats or complex numbers, or stands for one."""
    return is_sized(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def summary(model: PyTree, *example: Any, trainable: Where = is_floating) -> Summary:
    """What a model is made of: its modules, the arrays they hold, what they return.

    A module counts its own arrays, not those of modules inside it; an array that is several
    leaves (tied weights) is counted where it stands first. So the totals are those of
    `treadle.tree.count(model)` and `treadle.tree.nbytes(model)`.

    Args:
        model: Any pytree; in practice an `equinox.Module`.
        example: Arguments to call it with, as in `model(*example)`: arrays, or
            `jax.ShapeDtypeStruct`s in their place. Then the shapes that each module returns are
            told as well. Nothing is computed, and the model is in inference mode: it needs no key.
        trainable: Which leaves are trained, as for `treadle.TrainStep`: a filter function, a
            selector, globs, or a prefix with bools as leaves. Only arrays of floats ever are.

    Raises:
        TreeError: If a glob in `trainable` matches nothing, or a prefix does not fit.
        ArgumentTypeError: If `trainable` is none of what it can be, or there is an example and
            `model` cannot be called.

    Example:
        >>> model = treadle.nn.MLP(784, 10, width=256, depth=2, key=jax.random.key(0))
        >>> print(treadle.tree.summary(model, jnp.zeros(784)))
    """
    returned = outputs(model, *example) if example else {}
    leaves: list[_Leaf] = []
    modules = _modules(model, "", leaves)
    flags = jax.tree.leaves(leaf_mask(trainable, model, "trainable"))
    mask = [yes and is_floating(leaf.value) for yes, leaf in zip(flags, leaves, strict=True)]
    first = _first_arrays(leaves)
    rows = [_row(m, leaves, first, mask, returned.get(m.path, [])) for m in modules]
    whole = returned.get("", [])
    return Summary(tuple(rows), _output_text(whole[-1]) if whole else "")


def _first_arrays(leaves: list[_Leaf]) -> list[int]:
    # Small numbers, None and functions are shared by all Python: only arrays can be tied.
    sized = [at for at, leaf in enumerate(leaves) if is_sized(leaf.value)]
    first = list(range(len(leaves)))
    for at, seen in zip(sized, first_seen([leaves[at].value for at in sized]), strict=True):
        first[at] = sized[seen]
    return first


def _bytes_text(count: int) -> str:
    power = min(max(count.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    value = count / 1024**power
    digits = 0 if power == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {_UNITS[power]}"


def _calls_text(calls: tuple[str, ...]) -> str:
    """One line for each shape, in order of first appearance, with how often it came."""
    return "\n".join(
        text if calls.count(text) == 1 else f"{text} x{calls.count(text)}"
        for text in dict.fromkeys(calls)
    )


def _table(told: Summary) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Narrow gaps and short headings: an ordinary model's table fits into 80 columns.
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, show_edge=False, padding=(0, 1, 0, 0))
    has_outputs = bool(told.output)
    table.add_column("path", footer="total", overflow="fold")
    table.add_column("type", overflow="fold")
    table.add_column("arrays", overflow="fold")
    if has_outputs:
        table.add_column("output", footer=Text(told.output), overflow="fold")
    for name, total in (
        ("params", f"{told.count:,}"),
        ("bytes", _bytes_text(told.nbytes)),
        ("trained", f"{told.trainable_count:,}"),
    ):
        table.add_column(name, justify="right", footer=total, no_wrap=True)
    for row in told.rows:
        cells = [row.path or ".", row.type, "\n".join(row.arrays)]
        cells += [_calls_text(row.output)] if has_outputs else []
        sizes = [f"{row.count:,}", _bytes_text(row.nbytes)] if row.arrays else ["", ""]
        # As `Text`: brackets in a string would be read as rich's markup.
        table.add_row(*map(Text, [*cells, *sizes, row.trainable]))
    return table
