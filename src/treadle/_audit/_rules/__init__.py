"""The rules: one file each."""

from ._base import Rule as Rule
from ._base import rules as rules
