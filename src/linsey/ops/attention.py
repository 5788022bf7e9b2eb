"""Attention: averages of values, weighted by how well queries match keys.

Queries, keys and values have the axes (*batch, length, heads, depth), scores and
weights (*batch, heads, queries, keys). Shapes are static, so each function traces to
the equations of its formula and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random

from linsey.errors.attention import AttentionMaskError


def attention_scores(
    query: Array,
    key: Array,
    *,
    precision: Any = None,
    dot_general: Callable[..., Array] = lax.dot_general,
) -> Array:
    """Compares queries with keys: `s[..., h, q, k] = sum_d query[...] key[...]`.

    Args:
        query: array of shape (*batch, queries, heads, depth).
        key: array of shape (*batch, keys, heads, depth), of the same dtype.
        precision: see `jax.lax.Precision`.
        dot_general: what computes the product, called like `jax.lax.dot_general`.

    Returns:
        Scores of shape (*batch, heads, queries, keys).

    Example:
        >>> query, key = jnp.ones((1, 2, 1, 3)), jnp.ones((1, 4, 1, 3))
        >>> attention_scores(query, key)[0, 0].tolist()
        [[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]
    """
    last = query.ndim - 1
    batch = (*range(last - 2), last - 1)
    return dot_general(
        query,
        key,
        (((last,), (last,)), (batch, batch)),
        precision,
        preferred_element_type=query.dtype,
    )


def weighted_values(
    weights: Array,
    value: Array,
    *,
    precision: Any = None,
    dot_general: Callable[..., Array] = lax.dot_general,
) -> Array:
    """Averages values: `y[..., q, h] = sum_k weights[..., h, q, k] value[..., k, h]`.

    Args:
        weights: array of shape (*batch, heads, queries, keys), or with one batch axis
            more in front.
        value: array of shape (*batch, keys, heads, depth).
        precision: see `jax.lax.Precision`.
        dot_general: what computes the product, called like `jax.lax.dot_general`.

    Returns:
        Averages of shape (*batch, queries, heads, depth).

    Example:
        >>> weights = jnp.array([[[0.25, 0.75]]])  # (heads, queries, keys)
        >>> value = jnp.array([[[0.0]], [[4.0]]])  # (keys, heads, depth)
        >>> weighted_values(weights, value).tolist()
        [[[3.0]]]
    """
    dtype = value.dtype
    if weights.dtype != dtype:
        dtype = jnp.promote_types(weights.dtype, dtype)
    rank = value.ndim
    if weights.ndim != rank:  # a bias or mask has added a batch axis
        value = lax.broadcast(value, weights.shape[: weights.ndim - rank])
        rank = weights.ndim
    batch = tuple(range(rank - 3))
    y = dot_general(
        value,
        weights,
        (((rank - 3,), (rank - 1,)), ((*batch, rank - 2), (*batch, rank - 3))),
        precision,
        preferred_element_type=dtype,
    )  # (*batch, heads, depth, queries)
    return lax.transpose(y, (*batch, rank - 1, rank - 3, rank - 2))


def mask_scores(scores: Array, mask: Array) -> Array:
    """Gives scores that are masked the lowest finite value.

    Where a query has no key left, all its keys get the same weight.

    Args:
        scores: array of shape (*batch, heads, queries, keys).
        mask: array of a shape that broadcasts with it; scores are kept where it is
            not zero.

    Returns:
        Scores, of the shape that both broadcast to.

    Raises:
        AttentionMaskError: the shapes do not broadcast.

    Example:
        >>> mask_scores(jnp.ones((1, 1, 2)), jnp.array([True, False])).tolist()
        [[[1.0, -3.4028234663852886e+38]]]
    """
    if mask.dtype != bool:
        mask = lax.ne(mask, np.zeros((), mask.dtype))
    if mask.shape != scores.shape:
        try:
            shape = np.broadcast_shapes(mask.shape, scores.shape)
        except ValueError:
            raise AttentionMaskError(mask.shape, scores.shape) from None
        mask, scores = _broadcast(mask, shape), _broadcast(scores, shape)
    lowest = jnp.finfo(scores.dtype).min
    return lax.select(mask, scores, lax.full(scores.shape, lowest, scores.dtype))


def softmax(scores: Array) -> Array:
    """Turns scores into weights over the last axis: `exp(s) / sum(exp(s))`.

    The largest score is subtracted first, so that nothing overflows; sums of half
    precision are taken in float32.

    Args:
        scores: array of shape (..., keys).

    Returns:
        Positive weights with sum 1 over the last axis, of the same shape and dtype.

    Example:
        >>> softmax(jnp.array([1000.0, 1000.0])).tolist()
        [0.5, 0.5]
    """
    last = (scores.ndim - 1,)
    largest = lax.stop_gradient(lax.reduce_max(scores, last))
    powers = lax.exp(lax.sub(scores, lax.expand_dims(largest, last)))
    if powers.dtype.itemsize < 4:
        wide = lax.convert_element_type(powers, np.float32)
        total = lax.convert_element_type(lax.reduce_sum(wide, last), powers.dtype)
    else:
        total = lax.reduce_sum(powers, last)
    return lax.div(powers, lax.expand_dims(total, last))


def drop_weights(
    weights: Array, key: Array, rate: float, dtype: Any, *, broadcast: bool, batch: int
) -> Array:
    """Drops attention weights at random and scales the others by `1 / (1 - rate)`.

    Args:
        weights: array of shape (*batch, heads, queries, keys).
        key: a random key.
        rate: probability to drop a weight, in [0, 1).
        dtype: dtype of the factors.
        broadcast: whether batch entries and heads share one draw.
        batch: number of leading axes that share it.

    Returns:
        An array of the shape of `weights`.

    Example:
        >>> import jax
        >>> y = drop_weights(
        ...     jnp.ones((2, 1, 8)), jax.random.key(0), 0.5, jnp.float32,
        ...     broadcast=True, batch=1,
        ... )
        >>> y[0].tolist() == y[1].tolist(), set(y.ravel().tolist()) == {0.0, 2.0}
        (True, True)
    """
    shape = weights.shape
    if broadcast:
        shape = (1,) * batch + shape[-2:]
    keep = 1.0 - rate
    kept = lax.convert_element_type(random.bernoulli(key, keep, shape), dtype)
    factors = lax.div(kept, np.asarray(keep, dtype))
    if factors.dtype == weights.dtype and factors.ndim == weights.ndim:
        return lax.mul(weights, factors)
    return weights * factors


def _broadcast(x: Array, shape: tuple[int, ...]) -> Array:
    if x.shape == shape:
        return x
    axes = range(len(shape) - x.ndim, len(shape))
    return lax.broadcast_in_dim(x, shape, tuple(axes))
