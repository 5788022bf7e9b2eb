"""Attention over any axes: which they are, one axis in place of them, and masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from linsey.ops.attention_masks import make_attention_mask


def make_padding_mask(
    padding_mask_query: Array,
    padding_mask_key: Array,
    query_shape: Sequence[int],
    key_shape: Sequence[int],
    attention_axis: int | Sequence[int] | None = None,
    segmentation_mask: bool = False,
) -> Array:
    """Makes a mask from which positions are valid, or from the segments they are in.

    Args:
        padding_mask_query: what is known of the queries, of shape (batch, *axes).
        padding_mask_key: the same of the keys.
        query_shape: shape of the queries, (batch, *axes, heads, depth).
        key_shape: shape of the keys.
        attention_axis: the axes to attend over; none means all between batch and heads.
        segmentation_mask: whether both must be equal, rather than not zero.

    Returns:
        A mask of shape (*batch, 1, *query axes, *key axes).

    Example:
        >>> valid = jnp.array([[1.0, 0.0]])
        >>> make_padding_mask(valid, valid, (1, 2, 1, 4), (1, 2, 1, 4)).tolist()
        [[[[1.0, 0.0], [0.0, 0.0]]]]
    """
    axes = attended_axes(attention_axis, len(query_shape))
    given = (padding_mask_query, query_shape), (padding_mask_key, key_shape)
    queries, keys = (
        merge_axes(jnp.reshape(x, shape[:-2]), axes, 0) for x, shape in given
    )
    compare = jnp.equal if segmentation_mask else jnp.multiply
    mask = make_attention_mask(queries, keys, compare)
    sizes = [shape[i] for _, shape in given for i in axes]
    return mask.reshape(*mask.shape[:-2], *sizes)


def attended_axes(axis: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """The axes to attend over, of arrays of shape (batch, *axes, heads, depth).

    Raises:
        ValueError: an axis is the batch axis, or one of the last two.

    Example:
        >>> attended_axes(None, 5), attended_axes(2, 5)
        ((1, 2), (2,))
    """
    if axis is None:
        return tuple(range(1, rank - 2))
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if not all(1 <= i < rank - 2 for i in axes):
        raise ValueError(
            "Attention axis must be between the batch axis and the last-two axes."
        )
    return axes


def merge_axes(x: Array, axes: Sequence[int], tail: int) -> Array:
    """Merges axes into one, before the last `tail`: (*batch, length, *last).

    Example:
        >>> merge_axes(jnp.ones((2, 3, 4, 5, 6)), (1, 3), 1).shape
        (2, 4, 15, 6)
    """
    end = x.ndim - tail
    start = end - len(axes)
    x = jnp.moveaxis(x, axes, range(start, end))
    return x.reshape(*x.shape[:start], math.prod(x.shape[start:end]), *x.shape[end:])
