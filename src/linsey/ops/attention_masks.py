"""Masks: which queries may look at which keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.errors.attention import MaskRanksError
from linsey.typing import Dtype

__all__ = ["combine_masks", "make_attention_mask", "make_causal_mask"]


def make_attention_mask(
    query_input: Array,
    key_input: Array,
    pairwise_fn: Callable[..., Any] = jnp.multiply,
    extra_batch_dims: int = 0,
    dtype: Dtype = jnp.float32,
) -> Array:
    """Makes a mask from facts about each query and each key.

        mask[..., 0, q, k] = pairwise_fn(query_input[..., q], key_input[..., k])

    Args:
        query_input: array of shape (*batch, queries), for example which are valid.
        key_input: array of shape (*batch, keys).
        pairwise_fn: combines both, broadcasting.
        extra_batch_dims: number of axes of size 1 to put in front.
        dtype: dtype of the mask.

    Returns:
        A mask of shape (*extra, *batch, 1, queries, keys); the axis of size 1 is that
        of the heads.

    Example:
        >>> valid = jnp.array([[1, 1, 0]])
        >>> make_attention_mask(valid, valid, dtype=jnp.int32)[0, 0].tolist()
        [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """
    query_input, key_input = jnp.asarray(query_input), jnp.asarray(key_input)
    queries = lax.expand_dims(query_input, (query_input.ndim,))
    keys = lax.expand_dims(key_input, (key_input.ndim - 1,))
    mask = jnp.asarray(pairwise_fn(queries, keys))
    heads = mask.ndim - 2 + extra_batch_dims
    return lax.convert_element_type(
        lax.expand_dims(mask, (*range(extra_batch_dims), heads)), dtype
    )


def make_causal_mask(
    x: Array, extra_batch_dims: int = 0, dtype: Dtype = jnp.float32
) -> Array:
    """Makes the mask in which each position sees itself and those before it.

    Args:
        x: array of shape (*batch, length); only its shape matters.
        extra_batch_dims: number of axes of size 1 to put in front.
        dtype: dtype of the mask.

    Returns:
        A mask of shape (*extra, *batch, 1, length, length).

    Example:
        >>> make_causal_mask(jnp.ones((1, 3)), dtype=jnp.int32)[0, 0].tolist()
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    shape = np.shape(x)
    positions = lax.broadcasted_iota(np.dtype("int32"), shape, len(shape) - 1)
    return make_attention_mask(
        positions, positions, jnp.greater_equal, extra_batch_dims, dtype
    )


def combine_masks(*masks: Array | None, dtype: Dtype = jnp.float32) -> Array | None:
    """Combines masks: what is kept is not zero in any of them.

    Args:
        *masks: masks of one rank whose shapes broadcast, or none.
        dtype: dtype of the result.

    Returns:
        A mask, or none if there is none to combine.

    Raises:
        MaskRanksError: the masks have different ranks.

    Example:
        >>> causal = make_causal_mask(jnp.ones((1, 2)))
        >>> valid = make_attention_mask(jnp.ones((1, 2)), jnp.array([[0, 1]]))
        >>> combine_masks(causal, None, valid, dtype=jnp.int32)[0, 0].tolist()
        [[0, 0], [0, 1]]
    """
    given = [jnp.asarray(mask) for mask in masks if mask is not None]
    if not given:
        return None
    ranks = tuple(mask.ndim for mask in given)
    if len(set(ranks)) > 1:
        raise MaskRanksError(ranks)
    return lax.convert_element_type(reduce(jnp.logical_and, given), dtype)
