"""What another system has as a plain object, as a static field of a module."""

from typing import Any


class Held:
    """An object that compares by what it is, and can always be hashed.

    Static fields are compared by each call of a compiled program, so two wraps of equal objects
    share one. Linen's modules cannot be hashed where an attribute is a list.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return hash(type(self.value))

    def __eq__(self, other: object) -> bool:
        # By `type`, for caches compare at the end of a process too, when globals are gone.
        if type(other) is not type(self) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or _equal(self.value, other.value)

    def __repr__(self) -> str:
        return repr(self.value)


def _equal(one: Any, two: Any) -> bool:
    try:
        # Printed too: 1, 1.0 and True are equal, and are not the same program.
        return bool(one == two) and repr(one) == repr(two)
    except ValueError:  # NumPy's and JAX's, of attributes that are arrays.
        return False
