"""`audit`: rules over traced programs; a rule is one file."""

from ._audit import audit as audit
from ._finding import Finding as Finding
from ._report import Report as Report
