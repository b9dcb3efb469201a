"""The errors that are explained: each kind is a function from `Raised` to what is said of it."""

from ._arguments import explain_arguments as _arguments
from ._donation import explain_donation as _donation
from ._keys import explain_keys as _keys
from ._leaks import explain_leaks as _leaks
from ._memory import explain_memory as _memory
from ._mutation import explain_mutation as _mutation
from ._nonfinite import explain_nonfinite_value as _nonfinite
from ._optimizer import explain_optimizer as _optimizer
from ._shapes import explain_shapes as _shapes
from ._static import explain_static as _static
from ._tracers import explain_tracers as _tracers

KINDS = (
    _nonfinite,
    _memory,
    _donation,
    _keys,
    _leaks,
    _tracers,
    _static,
    _mutation,
    _optimizer,
    _arguments,
    _shapes,
)
"""In the order in which they are asked."""
