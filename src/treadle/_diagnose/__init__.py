"""What the step itself needs of explanation: signatures compared, programs looked into."""

from ._compilations import compilation_counter as compilation_counter
from ._flops import Flops as Flops
from ._flops import count_flops as count_flops
from ._jaxpr import primitives as primitives
from ._jaxpr import slow_in_a_loop as slow_in_a_loop
from ._signature import Signature as Signature
from ._signature import differences as differences
from ._signature import signature as signature
