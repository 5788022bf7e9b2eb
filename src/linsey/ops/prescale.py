"""The prescale: powers of two that bring values to about 1 before they are squared.

Values are multiplied by one power of two for each channel, which is exact. It is 1
for small values, which need none. Choosing it must not cost an additional sum over
devices, or one more number per channel in such a sum. If sums are shared, it is
therefore chosen from a first guess of the means and from one number per layer: the
average, over devices or rows, of the *largest size* among all channels. No channel
counts as smaller than 2**-48 of that, so values 2**14 times as large do not overflow,
and values 2**110 (1e33) times as small do not vanish. Afterwards `settle` chooses the
prescale from the moments themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.arithmetic import zeros
from linsey.ops.axes import broadcast_kept

SMALLER = 2.0**-32  # values scaled down this far can be added without overflow
LEAST = 2.0**-48  # the smallest size of a channel, relative to the largest in a layer


def power_of_size(size: Array) -> Array:
    """Return a power of two, at most 1, that brings values of some size to about 1.

    Example:
        >>> power_of_size(jnp.array([0.1, 5.0])).tolist()
        [1.0, 0.25]
    """
    info = jnp.finfo(size.dtype)
    # The reciprocal has to be a normal number, even if the sum of a few overflowed.
    smallest, largest = np.array([1, 2.0 ** (info.maxexp - 4)], size.dtype)
    size = lax.clamp(smallest, size, largest)
    return lax.integer_pow(lax.reduce_precision(size, info.nexp, 0), -1)


def prescale_values(x: Array, prescale: Array, axes: tuple[int, ...]) -> Array:
    """Multiply an array by values of the shape of the axes not in `axes`.

    Example:
        >>> prescale_values(jnp.ones((1, 2)), jnp.array([1.0, 0.5]), (0,)).tolist()
        [[1.0, 0.5]]
    """
    prescale = lax.convert_element_type(prescale, x.dtype)
    return lax.mul(x, broadcast_kept(prescale, x.shape, axes))


def largest_finite(size: Array, axes: Sequence[int] | None = None) -> Array:
    """Return the largest of the finite sizes, or zero if there are none.

    A size that is NaN or infinite spoils its own channel, and must not spoil others.

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
    """Choose a new prescale from the moments of values with a preliminary one.

    Args:
        mean: means.
        var: variances.
        *others: values that do not depend on the prescale, and last the prescale.

    Returns:
        The same for values with the new prescale.

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
