"""Moments of many batches, merged into the moments of all their values.

The union of two sets of values with counts `a` and `b` has the moments

    mean = mean_a + share (mean_b - mean_a),            share = b / (a + b),
    var = var_a + share (var_b - var_a) + share (1 - share) |mean_b - mean_a|^2,

which avoids cancellation between large numbers. Batches are merged one after the other,
in float64 by NumPy, or in their own dtype if the values are traced.

References:
    Chan, Golub, LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Values = jax.Array | np.ndarray


class Pool(NamedTuple):
    """Moments of a set of values: NumPy or JAX arrays of the same shape.

    Attributes:
        mean: mean of the values.
        var: biased variance of the values.
        count: number of values, or the sum of their weights.
    """

    mean: Values
    var: Values
    count: Values


def merge(old: Pool, new: Pool, grouped: Values | bool = False) -> Pool:
    """Merge two pools.

    Args:
        old: the first pool. Entries with count zero have mean and variance zero.
        new: the second pool.
        grouped: True where variances are only averaged, because the running variance
            is the average of the variances of groups, not the variance of all values.

    Example:
        >>> one, two = np.ones(1), np.full(1, 2.0)
        >>> merged = merge(Pool(one, 0 * one, one), Pool(4 * one, 0 * one, two))
        >>> [value.item() for value in merged]
        [3.0, 2.0, 3.0]
    """
    xp = numpy_of(old, new)
    count = old.count + new.count
    share = new.count / xp.where(count > 0, count, 1)
    change = new.mean - old.mean
    between = share * (1 - share) * xp.abs(change) ** 2
    var = old.var + share * (new.var - old.var) + xp.where(grouped, 0, between)
    return Pool(old.mean + share * change, var, count)


def exact(value: ArrayLike) -> Values:
    """Return a NumPy array in double precision, or a traced array unchanged."""
    if isinstance(value, jax.core.Tracer):
        return jnp.asarray(value)
    array = np.asarray(value)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def numpy_of(*tuples: tuple[object, ...]) -> Any:
    """Return `jax.numpy` if one of the arrays is a JAX array, otherwise `numpy`."""
    is_jax = any(isinstance(value, jax.Array) for some in tuples for value in some)
    return jnp if is_jax else np
