"""What has a shape and a dtype."""

from typing import Any

import jax
import numpy as np


def is_sized(leaf: Any) -> bool:
    """Whether `leaf` is an array (typed keys included) or stands for one."""
    return isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))
