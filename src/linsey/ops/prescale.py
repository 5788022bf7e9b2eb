"""The prescale: powers of two that bring values to about 1 before they are squared.

Values are multiplied with one power of two for each channel, which is exact. It is 1
for small values, which need none. Its choice must not cost a sum over devices of its
own, or a number for each channel in one: where a sum is shared, it is chosen by a first
guess of the means and by one number a layer, the average over devices or rows of the
*largest size* among all channels. No channel counts as smaller than 2**-48 of that: so
what is 2**14 times as large does not overflow, and what is 2**110 (1e33) times as small
does not vanish. Afterwards `settle` chooses it by the moments themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.arithmetic import zeros
from linsey.ops.axes import broadcast_kept

SMALLER = 2.0**-32  # so small, values can be added without overflow
LEAST = 2.0**-48  # of the largest size of a layer, the least that a channel counts as


def power_of_size(size: Array) -> Array:
    """Return a power of two, at most 1, that brings values of some size to about 1.

    Example:
        >>> power_of_size(jnp.array([0.1, 5.0])).tolist()
        [1.0, 0.25]
    """
    info = jnp.finfo(size.dtype)
    # Not beyond what has a normal reciprocal; also where the sum of a few overflows.
    smallest, largest = np.array([1, 2.0 ** (info.maxexp - 4)], size.dtype)
    size = lax.clamp(smallest, size, largest)
    return lax.integer_pow(lax.reduce_precision(size, info.nexp, 0), -1)


def prescale_values(x: Array, prescale: Array, axes: tuple[int, ...]) -> Array:
    """Multiply an array with values of the shape of the axes not in `axes`.

    Example:
        >>> prescale_values(jnp.ones((1, 2)), jnp.array([1.0, 0.5]), (0,)).tolist()
        [[1.0, 0.5]]
    """
    prescale = lax.convert_element_type(prescale, x.dtype)
    return lax.mul(x, broadcast_kept(prescale, x.shape, axes))


def largest_finite(size: Array, axes: Sequence[int] | None = None) -> Array:
    """Return the largest of some sizes that is finite, or zero.

    What is not finite spoils its own channel, and must not spoil others.

    Args:
        size: array of numbers >= 0.
        axes: the axes to reduce. If `None`, all are.

    Example:
        >>> largest_finite(jnp.array([1.0, 3.0, jnp.inf, jnp.nan])).item()
        3.0
    """
    finite = lax.lt(size, lax.full_like(size, jnp.inf))
    size = lax.select(finite, size, zeros(size))
    return lax.reduce_max(size, range(size.ndim) if axes is None else tuple(axes))


def settle(mean: Array, var: Array, *others: Array) -> tuple[Array, ...]:
    """Choose the prescale anew, by the moments of values that had another one.

    Args:
        mean: means.
        var: variances.
        *others: the prescale, and before it what does not depend on it.

    Returns:
        The same of values with the new prescale.

    Example:
        >>> three, one = jnp.array([3.0]), jnp.array([1.0])
        >>> [value.item() for value in settle(three, one, one)]
        [0.75, 0.0625, 0.25]
    """
    *counts, prescale = others
    size = lax.add(lax.abs(mean), lax.sqrt(var))
    settled = power_of_size(lax.div(size, prescale))
    ratio = lax.div(settled, prescale)
    mean = lax.mul(mean, lax.convert_element_type(ratio, mean.dtype))
    return mean, lax.mul(lax.mul(var, ratio), ratio), *counts, settled
