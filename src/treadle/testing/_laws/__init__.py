"""The laws: one file each."""

from ._audited import assert_audited as assert_audited
from ._commutes import check_commutes as check_commutes
from ._grad import check_grad as check_grad
from ._idempotent import check_idempotent as check_idempotent
from ._jit import check_jit as check_jit
from ._lens import check_lens as check_lens
from ._linear import check_linear as check_linear
from ._monoid import check_monoid as check_monoid
from ._partition import check_partition as check_partition
from ._resume import check_resume as check_resume
from ._roundtrip import check_roundtrip as check_roundtrip
from ._serialisation import check_serialisation as check_serialisation
from ._sharding import check_sharding as check_sharding
from ._structure import check_structure as check_structure
from ._vmap import check_vmap as check_vmap
