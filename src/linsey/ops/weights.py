"""Weights of entries: masks, and numbers >= 0.

An entry of weight zero is *absent*. It is selected away before anything is multiplied,
because `0 * nan` is not 0: what it holds reaches no sum and no derivative.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array, lax

from linsey.ops.broadcast import broadcast_all


def weigh(weights: Array | None, values: Array) -> Array:
    """Multiplies values by weights: `w x`, and 0 where `w` is 0.

    Args:
        weights: mask or weights of the rank of `values`, each axis of its size or 1;
            none means that all are 1.
        values: array, which may hold anything where it is absent.

    Returns:
        An array like `values`.

    Example:
        >>> weigh(jnp.array([2.0, 0.0]), jnp.array([1.5, jnp.nan])).tolist()
        [3.0, 0.0]
    """
    if weights is None:
        return values
    kept = broadcast_all(present(weights), values.shape)
    values = lax.select(kept, values, lax.full_like(values, 0))
    if weights.dtype == bool:
        return values
    weights = lax.convert_element_type(weights, values.dtype)
    return lax.mul(values, broadcast_all(weights, values.shape))


def present(weights: Array) -> Array:
    """Says which weights are not zero.

    Example:
        >>> present(jnp.array([2.0, 0.0])).tolist()
        [True, False]
    """
    if weights.dtype == bool:
        return weights
    return lax.ne(weights, lax.full_like(weights, 0))


def total_weight(
    weights: Array, shape: tuple[int, ...], axes: tuple[int, ...], dtype: jnp.dtype
) -> Array:
    """Adds weights over axes of an array that they broadcast to.

    Args:
        weights: mask or weights of the rank of `shape`, each axis of its size or 1.
        shape: the shape of the array weighted.
        axes: the axes to reduce.
        dtype: dtype of the result.

    Returns:
        The sums, of the shape of the axes that are kept.

    Example:
        >>> mask = jnp.array([[True], [True], [False]])
        >>> total_weight(mask, (3, 2), (0,), jnp.dtype("float32")).tolist()
        [2.0, 2.0]
    """
    repeats = math.prod(shape[a] for a in axes if weights.shape[a] == 1)
    total = lax.reduce_sum(lax.convert_element_type(weights, dtype), axes)
    total = lax.mul(total, lax.full_like(total, repeats))
    kept = [size for axis, size in enumerate(shape) if axis not in axes]
    return broadcast_all(total, tuple(kept))
