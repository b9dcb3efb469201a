"""Hypothesis strategies and laws, for your own pytree transformations."""

from . import _hypothesis as _hypothesis
from . import pool as pool
from ._laws import assert_audited as assert_audited
from ._laws import check_commutes as check_commutes
from ._laws import check_grad as check_grad
from ._laws import check_idempotent as check_idempotent
from ._laws import check_jit as check_jit
from ._laws import check_lens as check_lens
from ._laws import check_linear as check_linear
from ._laws import check_monoid as check_monoid
from ._laws import check_partition as check_partition
from ._laws import check_resume as check_resume
from ._laws import check_roundtrip as check_roundtrip
from ._laws import check_serialisation as check_serialisation
from ._laws import check_sharding as check_sharding
from ._laws import check_structure as check_structure
from ._laws import check_vmap as check_vmap
from ._strategies import arrays as arrays
from ._strategies import batches_like as batches_like
from ._strategies import code as code
from ._strategies import keys as keys
from ._strategies import modules as modules
from ._strategies import optimizers as optimizers
from ._strategies import pytrees as pytrees
from ._strategies import same_structure as same_structure
from ._strategies import train_states as train_states
