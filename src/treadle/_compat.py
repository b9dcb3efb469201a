"""What has another name in older versions of JAX."""

import jax

# Since 0.8; before that it was experimental. As a context manager it is the same.
try:
    enable_x64 = jax.enable_x64
except AttributeError:
    from jax.experimental import enable_x64 as enable_x64  # pyright: ignore[reportAttributeAccessIssue]
