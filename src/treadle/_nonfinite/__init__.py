"""`explain_nonfinite`: where the first NaN or infinity of a step comes from."""

from ._explain import explain_nonfinite as explain_nonfinite
from ._report import BadInput as BadInput
from ._report import NonFinite as NonFinite
from ._report import Operand as Operand
from ._report import Operation as Operation
