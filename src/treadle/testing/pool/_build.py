"""An instance made of its fields, whatever its class's `__init__` takes."""

from typing import Any, TypeVar

_T = TypeVar("_T")


def build(cls: type[_T], /, **fields: Any) -> _T:
    """An instance of a module or dataclass with these fields; no `__init__` runs.

    What `jax.tree.unflatten` does: the fields may be of any kind, such as the `None`s and bools of
    a mask. `treadle.testing.code` writes it where a class could not be called.

    Args:
        cls: An `eqx.Module` or dataclass.
        fields: All of its fields.

    Example:
        >>> build(eqx.nn.Identity)
        Identity()
    """
    node = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(node, name, value)  # Modules are frozen.
    return node
