"""Reading JSON that anybody may have written: every value is checked before it is used."""

from typing import Any

# NumPy's own limit, and one above which no size is of this world.
_AXES = 64
_LARGEST = 2**63 - 1


class Malformed(ValueError):
    """A value is not of the kind that the format says."""


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise Malformed(f"{short(value)} stands where an object should")
    return value


def member(fields: dict[str, Any], name: str, kind: type, *, optional: bool = False) -> Any:
    """A member of an object, of a type; None where it is missing and may be."""
    value = fields.get(name)
    if value is None and optional:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Malformed(f"`{name}` (={short(value)}) is no {kind.__name__}")
    return value


def text(fields: dict[str, Any], name: str) -> str:
    """A member that is a string."""
    return member(fields, name, str)


def sequence(fields: dict[str, Any], name: str) -> list[Any]:
    """A member that is an array."""
    return member(fields, name, list)


def integer(fields: dict[str, Any], name: str) -> int:
    """A member that is a size: a whole number, not negative, of 63 bits."""
    value = member(fields, name, int)
    if not 0 <= value <= _LARGEST:
        raise Malformed(f"`{name}` (={short(value)}) is no size")
    return value


def shape(fields: dict[str, Any]) -> tuple[int, ...]:
    """The member `shape`: an array of sizes."""
    sizes = sequence(fields, "shape")
    if len(sizes) > _AXES:
        raise Malformed(f"`shape` has {len(sizes)} axes")
    return tuple(integer({"shape": size}, "shape") for size in sizes)


def number(value: Any, name: str) -> float:
    """A value that is a number, and is not too large for one of 64 bits."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise Malformed(f"{short(value)} for {short(name)} is no number")
    try:
        return float(value)
    except OverflowError:
        raise Malformed(f"{short(value)} for {short(name)} is too large") from None


def short(value: Any) -> str:
    """A value for a message, its beginning where it is long."""
    printed = hex(value) if type(value) is int else repr(value)
    return printed if len(printed) <= 60 else f"{printed[:57]}..."
