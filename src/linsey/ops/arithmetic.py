"""Arithmetic of values per channel: one equation each, without promotion.

The functions of `jax.numpy` promote dtypes and broadcast shapes at every call, which
takes longer than tracing the operation itself. The moments know dtypes and shapes
beforehand.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def square_abs(x: Array) -> Array:
    """Compute `|x|^2`, which is real even if `x` is complex.

    Example:
        >>> square_abs(jnp.array([3 + 4j])).tolist()
        [25.0]
    """
    if jnp.iscomplexobj(x):
        return lax.add(lax.square(lax.real(x)), lax.square(lax.imag(x)))
    return lax.mul(x, x)


def real_product(x: Array, dx: Array) -> Array:
    """Compute `Re[conj(x) dx]`.

    Example:
        >>> real_product(jnp.array([1j]), jnp.array([2j])).tolist()
        [2.0]
    """
    if jnp.iscomplexobj(x):
        return lax.real(lax.mul(lax.conj(x), dx))
    return lax.mul(x, dx)


def divide(values: Array, divisor: Array | float) -> Array:
    """Divide by a number, or by an array of the same shape, in the dtype of `values`.

    Example:
        >>> divide(jnp.array([1.0, 3.0]), 2).tolist()
        [0.5, 1.5]
    """
    if isinstance(divisor, Array):
        divisor = lax.convert_element_type(divisor, values.dtype)
        return lax.div(values, divisor)
    if isinstance(divisor, int | float):
        return lax.div(values, np.asarray(divisor, values.dtype))
    return lax.div(values, lax.full_like(values, divisor))  # a symbolic size


def nonzero(count: Array) -> Array:
    """Replace counts of zero by 1, so that they can be divisors.

    Example:
        >>> nonzero(jnp.array([0.0, 3.0])).tolist()
        [1.0, 3.0]
    """
    return lax.select(lax.gt(count, zeros(count)), count, lax.full_like(count, 1))


def times(values: Array, factor: float) -> Array:
    """Multiply by a constant: one equation, without a broadcast.

    Example:
        >>> times(jnp.ones(2), 3).tolist()
        [3.0, 3.0]
    """
    return lax.mul(values, np.asarray(factor, values.dtype))


def zeros(values: Array) -> Array:
    """Return zeros of the shape, dtype and sharding of an array.

    Example:
        >>> zeros(jnp.ones(2)).tolist()
        [0.0, 0.0]
    """
    return lax.full_like(values, 0)
