"""Low-rank adapters: put on, chosen for training, merged."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._checks import whole_number
from .._custom_types import Door, KeyLike, Model
from .._errors import ArgumentTypeError, ArgumentValueError, TreeError
from .._random import adapter_key, as_key
from ._lora_layer import LoRA, adapted, is_adaptable
from ._match import some
from ._paths import paths_of_structure
from ._select import Selector
from ._where import Where, leaf_mask

_NUMBERS = (int, float, np.integer, np.floating)


def _is_lora(node: Any) -> bool:
    return isinstance(node, LoRA)


def _is_layer(node: Any) -> bool:
    # The norms compute another weight from that of the layer inside. It would be normalised
    # without the change, and with it once the two are merged.
    is_norm = isinstance(node, (eqx.nn.WeightNorm, eqx.nn.SpectralNorm))
    return is_norm or _is_lora(node) or is_adaptable(node)


class _Layers:
    """The layers of a model that can be adapted, or are, in the order of its leaves."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.treedef = jax.tree.structure(model)
        self.names = paths_of_structure(self.treedef, model)
        self.nodes, self.outer = jax.tree.flatten(model, is_leaf=_is_layer)
        self.slots = [
            slot for slot, node in enumerate(self.nodes) if _is_lora(node) or is_adaptable(node)
        ]
        self.paths = self.at_weights(jax.tree.unflatten(self.treedef, self.names))

    def at_weights(self, tree: PyTree) -> list[Any]:
        """What a tree of the model's structure has in the places of the layers' weights."""
        parts = self.outer.flatten_up_to(tree)
        return [
            (parts[slot].base if _is_lora(self.nodes[slot]) else parts[slot]).weight
            for slot in self.slots
        ]

    def chosen(self, where: Where) -> list[bool]:
        """For each layer, whether `where` chooses its weight.

        Raises:
            TreeError: It chooses none.
        """
        mask = leaf_mask(where, self.model)
        flags = self.at_weights(mask)
        if not any(flags):
            leaves = zip(self.names, jax.tree.leaves(mask), strict=True)
            chosen = [repr(path) for path, yes in leaves if yes]
            raise TreeError(
                f"`where` (={where!r}) chooses no weight of a layer that can be adapted; it "
                f"chooses {some(chosen) or 'nothing'}. Adapters go on layers of "
                f"`eqx.nn.Linear`, `eqx.nn.Conv` and `eqx.nn.Embedding` that are called as those "
                f"are; of this model ({type(self.model).__name__}) that is "
                f"{some(map(repr, self.paths)) or 'none'}."
            )
        return flags


def _chosen(layers: _Layers, where: Any) -> list[bool]:
    """For each layer, whether any of the globs in `where`, or what else it is, chooses it."""
    is_globs = isinstance(where, (tuple, list)) and where and all(isinstance(g, str) for g in where)
    # One by one, as each of them is meant to choose something.
    flags = [layers.chosen(glob) for glob in where] if is_globs else [layers.chosen(where)]
    return [any(column) for column in zip(*flags, strict=True)]


def _scale(alpha: Any, rank: int) -> float:
    if alpha is None:
        return 1.0
    if isinstance(alpha, bool) or not isinstance(alpha, _NUMBERS):
        raise ArgumentTypeError(
            f"`alpha` (={alpha!r}) must be a number, or None for that of `rank`, not of type "
            f"{type(alpha).__name__}: it is part of the model's structure, and no array."
        )
    if not (math.isfinite(alpha) and alpha > 0):
        raise ArgumentValueError(
            f"`alpha` (={alpha!r}) must be positive and finite; the adapters' product is "
            f"multiplied by `alpha / rank`."
        )
    return float(alpha) / rank


def _refuse_adapted(layers: _Layers, flags: list[bool], where: Any) -> None:
    places = zip(layers.slots, layers.paths, flags, strict=True)
    adapted = [path for slot, path, yes in places if yes and _is_lora(layers.nodes[slot])]
    if adapted:
        raise TreeError(
            f"`where` (={where!r}) chooses layers that have an adapter already: "
            f"{some(map(repr, adapted))}. Choose others, or merge those first with "
            f"`treadle.tree.merge_lora`."
        )


def lora(
    model: Model,
    rank: Door[int],
    *,
    where: Where,
    alpha: Door[float | None] = None,
    key: Door[KeyLike],
) -> Model:
    """`model` with low-rank adapters on some of its layers.

    A layer with a weight *W* becomes one that computes with *W + alpha / rank · B A*, where *A* has
    `rank` rows and *B* `rank` columns. *A* is drawn from a normal distribution of variance one over
    the size of a row of *W*; *B* is zero. So the adapted model computes what `model` does, bit for
    bit, until *B* is trained; a row of *B* that stays zero leaves its output as it is.

    Adapters go on `eqx.nn.Linear`, `eqx.nn.Conv` (any dimension, any groups) and
    `eqx.nn.Embedding`, also where `eqx.filter_vmap` stacked them. Subclasses with a `__call__` of
    their own are left alone, as are the layers inside an `eqx.nn.WeightNorm` or
    `eqx.nn.SpectralNorm`. In the model an adapted layer stands at its old path: the layer itself at
    `base`, beside it `lora_a` and `lora_b`. Its `weight` is the changed one.

    The adapters have the dtype of the weight. Those of a bfloat16 model learn better in float32:
    `treadle.tree.cast(model, "float32", where=treadle.tree.lora_filter)`. They are cast back when a
    layer is called.

    Args:
        model: Any pytree with such layers.
        rank: At least 1. More than the smaller side of a weight adds nothing.
        where: Which of them, by their `weight`: a filter function on leaves, a
            `treadle.tree.select(...)`, globs over leaf paths such as `"layers/*/query_proj/**"`,
            or a pytree of bools that is a prefix of `model`. What else it chooses, such as biases
            and norms, stays as it is; so `"**"` is every layer that can be adapted.
        alpha: The product *B A* is multiplied by `alpha / rank`. `rank` by default, that is by 1.
        key: Each adapter draws with a key of its own that follows from this one and from the
            layer's place in the model.

    Raises:
        TreeError: `where` (or one of its globs) chooses no layer that can be adapted, or one that
            has an adapter already.
        ArgumentTypeError: `rank`, `alpha`, `key` or `where` is not of a type that it can be.
        ArgumentValueError: `rank` is less than 1, or `alpha` is not positive.

    Example:
        >>> adapted = treadle.tree.lora(model, 8, where="**/weight", key=key)
        >>> step = treadle.TrainStep(loss_fn, optimizer, trainable=treadle.tree.lora_filter)
        >>> model = treadle.tree.merge_lora(state.model)

    References:
        Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
        arXiv:2106.09685.
    """
    rank = whole_number("rank", rank)
    scale, root = _scale(alpha, rank), as_key(key)
    layers = _Layers(model)
    flags = _chosen(layers, where)
    _refuse_adapted(layers, flags, where)
    nodes = list(layers.nodes)
    for index, (slot, yes) in enumerate(zip(layers.slots, flags, strict=True)):
        if yes:
            nodes[slot] = adapted(nodes[slot], rank, scale, adapter_key(root, index))
    return jax.tree.unflatten(layers.outer, nodes)


@dataclasses.dataclass(frozen=True, repr=False)
class _LoraFilter(Selector):
    def _hits(self, paths: Sequence[str], tree: PyTree) -> list[bool]:
        nodes = jax.tree.leaves(tree, is_leaf=_is_lora)
        if not any(map(_is_lora, nodes)):
            what = "paths alone" if tree is None else f"this {type(tree).__name__}"
            raise TreeError(
                f"`treadle.tree.lora_filter` finds no adapters in {what}. Put them on the model "
                f"first: `treadle.tree.lora(model, rank, where=..., key=key)`."
            )
        return [flag for node in nodes for flag in _flags(node)]

    def __repr__(self) -> str:
        return "treadle.tree.lora_filter"


def _flags(node: Any) -> list[bool]:
    if not _is_lora(node):
        return [False]
    entries = jtu.tree_flatten_with_path(node)[0]
    return [keys[0].name in ("lora_a", "lora_b") for keys, _ in entries]


lora_filter: Selector = _LoraFilter()
"""Chooses the adapters that `treadle.tree.lora` put on a model, and nothing else.

A `treadle.tree.Selector`: pass it as it is to `TrainStep(trainable=...)` and to `optax.masked`, or
call it on a model for the pytree of bools that `eqx.partition` wants. It knows adapters by their
type, not by their names. Combine it: `lora_filter | select("head/**")`.

Raises:
    TreeError: There are no adapters.
"""


def merge_lora(model: Model) -> Model:
    """`model` without adapters: each layer is itself again, with the change in its weight.

    The structure is that of the model before `treadle.tree.lora`, and a layer whose adapter was not
    trained has its weight bit for bit. The product is computed in float32 at least and rounded to
    the format of the weight, so the merged model agrees with the adapted one to rounding.

    Raises:
        TreeError: There are no adapters in `model`.

    Example:
        >>> treadle.save("model", treadle.tree.merge_lora(state.model))
    """
    nodes, outer = jax.tree.flatten(model, is_leaf=_is_lora)
    if not any(map(_is_lora, nodes)):
        raise TreeError(
            f"`model` ({type(model).__name__}) has no adapters to merge: what "
            f"`treadle.tree.lora` returned, or a step trained from it, has."
        )
    return jax.tree.unflatten(outer, [n.merged() if _is_lora(n) else n for n in nodes])
