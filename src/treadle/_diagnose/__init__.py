"""What the step itself needs of explanation: compilations counted, signatures compared."""

from ._causes import cause as cause
from ._compilations import compilation_counter as compilation_counter
from ._signature import Signature as Signature
from ._signature import Snapshot as Snapshot
from ._signature import signature as signature
