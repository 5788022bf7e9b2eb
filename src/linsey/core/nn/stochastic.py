"""Dropout as a function of a scope."""

from __future__ import annotations

from jax import Array

from linsey import ops
from linsey.core.scope import Scope


def dropout(
    scope: Scope,
    inputs: Array,
    rate: float,
    deterministic: bool = False,
    rng: Array | None = None,
) -> Array:
    """Drops entries at random: `y = mask * x / (1 - rate)`.

    Args:
        scope: gives the random key, from the stream `dropout`.
        inputs: array of any shape.
        rate: probability to drop an entry, in [0, 1).
        deterministic: whether to leave the inputs alone.
        rng: random key in place of that of the scope.

    Returns:
        An array like `inputs`.
    """
    if rate == 0.0 or deterministic:
        return inputs
    key = scope.make_rng("dropout") if rng is None else rng
    return ops.dropout(inputs, key, rate)
