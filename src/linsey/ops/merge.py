"""Moments of parts put together to the moments of the whole.

The variance of the whole is the mean of the variances of its parts plus the variance
of their means. Both terms are sums of squares of small numbers, so that nothing is
lost however far the values lie from zero.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def merge_moments(
    mean: Array, var: Array, count: Array | None = None, axis: int = 0
) -> tuple[Array, Array, Array | None]:
    """Merges the moments of parts, which lie along one axis.

    Args:
        mean: means of the parts.
        var: biased variances of the parts, or mean squares with means of zero.
        count: number of values, or sum of weights, of each part; none means that all
            are alike. A part that counts nothing may hold anything.
        axis: the axis of the parts.

    Returns:
        Mean, variance and count of the whole; without counts there is none.

    Example:
        >>> mean, var, count = merge_moments(
        ...     jnp.array([1.0, 4.0]), jnp.array([0.0, 0.0]), jnp.array([1.0, 2.0])
        ... )
        >>> print(mean, var, count)
        3.0 2.0 3.0

    References:
        Chan, Golub, LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115
    """
    total = None if count is None else jnp.sum(count, axis, keepdims=True)

    def average(values: Array) -> Array:
        if count is None or total is None:
            return jnp.mean(values, axis, keepdims=True)
        weighed = jnp.where(count > 0, count * values, 0)
        return jnp.sum(weighed, axis, keepdims=True) / jnp.where(total > 0, total, 1)

    whole = average(mean)
    spread = average(var + squared_abs(mean - whole))
    return (
        jnp.squeeze(whole, axis),
        jnp.squeeze(spread, axis),
        None if total is None else jnp.squeeze(total, axis),
    )


def squared_abs(x: Array) -> Array:
    """Squares absolute values: `|x|^2`, real also for complex `x`.

    Example:
        >>> print(squared_abs(jnp.array(3 + 4j)))
        25.0
    """
    if jnp.iscomplexobj(x):
        return lax.add(lax.square(lax.real(x)), lax.square(lax.imag(x)))
    return lax.mul(x, x)
