"""What the step itself needs of explanation: compilations counted, signatures compared."""

from ._compilations import compilation_counter as compilation_counter
from ._signature import Signature as Signature
from ._signature import differences as differences
from ._signature import signature as signature
