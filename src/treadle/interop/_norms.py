"""Whether a layer is given one example of a mapped batch."""

import jax


def is_mapped(axis_name: str) -> bool:
    """Whether an axis of this name is being mapped over, as a step does with examples."""
    try:
        jax.lax.axis_index(axis_name)
    except NameError:
        return False
    return True
