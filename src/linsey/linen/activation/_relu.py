"""The rectifier, the most common activation."""

from __future__ import annotations

import jax
from jax import Array
from jax.typing import ArrayLike

# Differentiated once for each signature, unlike `jax.nn.relu`, which is differentiated
# at each call.
_relu = jax.jit(jax.nn.relu, inline=True)


def relu(x: ArrayLike) -> Array:
    """Compute `max(x, 0)`, with derivative 0 at 0.

    Args:
        x: array of any shape.

    Returns:
        An array of the same shape.

    Example:
        >>> relu(jax.numpy.array([-2.0, 3.0])).tolist()
        [0.0, 3.0]
    """
    return _relu(x)
