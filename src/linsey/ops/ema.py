"""Exponential moving averages that a bad batch cannot spoil."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array


def ema(
    average: Any,
    value: Any,
    momentum: Any,
    valid: Any = True,
    *,
    complement: Any = None,
) -> Array:
    """Moves an average towards a value: `momentum average + (1 - momentum) value`.

    Args:
        average: the old average, of any shape.
        value: the new value, of that shape.
        momentum: fraction of the old average that is kept, in [0, 1].
        valid: where to move; elsewhere the old average is kept.
        complement: `1 - momentum`, where it is known to more digits than `momentum`
            can give: traced in float32, 1 - 0.999 is off by 1e-5 of itself.

    Returns:
        The new average.

    Example:
        >>> old, new = jnp.array([1.0, 1.0]), jnp.array([2.0, jnp.nan])
        >>> ema(old, new, 0.5, jnp.isfinite(new)).tolist()
        [1.5, 1.0]
    """
    if complement is None:
        complement = 1 - momentum
    moved = momentum * average + complement * value
    return moved if valid is True else jnp.where(valid, moved, average)
