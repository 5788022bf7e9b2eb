"""Batch renormalization: training outputs that are nearly those of evaluation.

    y = (x - mean) / sigma * r + d
    r = clip(sigma / running sigma, 1 / r_max, r_max)
    d = clip((mean - running mean) / running sigma, -d_max, d_max)

`r` and `d` count as constants in derivatives. With `r_max = 1` and `d_max = 0` this is
batch normalization; without bounds, normalization by the running averages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax


def renormalize(
    mean: Array,
    sigma: Array,
    running_mean: Array,
    running_sigma: Array,
    r_max: Any,
    d_max: Any,
) -> tuple[Array, Array]:
    """Moves the moments of a batch so that normalizing by them renormalizes.

    Args:
        mean: means of the batch.
        sigma: standard deviations of the batch.
        running_mean: running averages of the means.
        running_sigma: those of the standard deviations.
        r_max: bound of the change of scale, at least 1.
        d_max: bound of the change of offset, at least 0.

    Returns:
        The mean to subtract, and the inverse deviation to multiply with.

    Example:
        >>> one, two = jnp.ones(1), jnp.full(1, 2.0)
        >>> mean, inverse = renormalize(two, two, one, one, 4.0, 8.0)
        >>> mean.tolist(), inverse.tolist()  # those of the running averages
        ([1.0], [1.0])
        >>> mean, inverse = renormalize(two, two, one, one, 1.0, 0.0)
        >>> mean.tolist(), inverse.tolist()  # those of the batch
        ([2.0], [0.5])

    References:
        Ioffe 2017, https://arxiv.org/abs/1702.03275
    """
    r_max = jnp.asarray(r_max, sigma.dtype)
    d_max = jnp.asarray(d_max, sigma.dtype)
    r = lax.stop_gradient(jnp.clip(sigma / running_sigma, 1 / r_max, r_max))
    d = (mean - running_mean) / running_sigma
    d = lax.stop_gradient(jnp.clip(d, -d_max, d_max))
    return mean - d * sigma / r, r / sigma


def renorm_schedule(
    warmup: int = 5_000,
    r_steps: int = 40_000,
    d_steps: int = 25_000,
    r_max: float = 3.0,
    d_max: float = 5.0,
) -> Callable[[Any], tuple[Array, Array]]:
    """Widens the bounds of batch renormalization step by step, as in the paper.

    Args:
        warmup: number of updates of plain batch normalization.
        r_steps: the update at which `r_max` is reached, linearly from 1.
        d_steps: the update at which `d_max` is reached, linearly from 0.
        r_max: the final bound of the scale.
        d_max: the final bound of the offset.

    Returns:
        A function from the number of updates so far to `(r_max, d_max)`.

    Example:
        >>> limits = renorm_schedule(warmup=10, r_steps=30, d_steps=20)
        >>> [tuple(map(float, limits(step))) for step in (0, 20, 99)]
        [(1.0, 0.0), (2.0, 5.0), (3.0, 5.0)]
    """

    def limits(updates: Any) -> tuple[Array, Array]:
        since = jnp.asarray(updates, jnp.float32) - warmup
        r_part = jnp.clip(since / max(r_steps - warmup, 1), 0, 1)
        d_part = jnp.clip(since / max(d_steps - warmup, 1), 0, 1)
        return 1 + (r_max - 1) * r_part, d_max * d_part

    return limits
