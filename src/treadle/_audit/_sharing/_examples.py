"""Whether an array that comes in is a batch of examples, beside others of the same number."""

from .._audited import Audited
from .._leaf import Leaf, leaves_of
from ._batch_axes import BatchAxes
from ._shared_draws import Table


def is_batch(audited: Audited, leaf: Leaf) -> bool:
    """Whether an array is a batch although it comes out changed, as under an attack.

    Its first dimension is one with the first one of something that is no state: of labels.
    """
    if len(leaf.aval.shape) < 2:
        return False  # Numbers by themselves may as well be weights.
    states = {each.index for state in audited.states for each in leaves_of(state.given)}
    table = Table(audited, states - {leaf.index})
    seen = BatchAxes(audited.program.jaxpr, table.given, table.sizes)
    first = {each.index: seen.together(axes[0]) for each, axes in table.leaves}
    own = first.pop(leaf.index, None)
    return own is not None and own in first.values()
