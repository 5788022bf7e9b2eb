"""Scaled dot-product attention as functions, with every choice that Flax offers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from jax import Array, lax

from linsey.errors.attention import AttentionHooksError, AttentionShapeError
from linsey.linen.dtypes import promote_dtype
from linsey.linen.module import Module
from linsey.ops.attention import (
    attention_scores,
    drop_weights,
    mask_scores,
    softmax,
    weighted_values,
)
from linsey.typing import Dtype, PrecisionLike, PRNGKey

__all__ = ["dot_product_attention", "dot_product_attention_weights"]


def dot_product_attention_weights(
    query: Array,
    key: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: PRNGKey | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: Dtype | None = None,
    precision: PrecisionLike = None,
    module: Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: Callable[..., Array] | None = None,
    einsum: Callable[..., Array] | None = None,
) -> Array:
    """Computes attention weights: `softmax(query @ key / sqrt(depth) + bias)`.

    Args:
        query: array of shape (*batch, queries, heads, depth).
        key: array of shape (*batch, keys, heads, depth).
        bias: what is added to the scores, of a shape that broadcasts to
            (*batch, heads, queries, keys).
        mask: which scores count (not zero), of a shape that broadcasts like `bias`.
        broadcast_dropout: whether batch entries and heads share one draw of dropout.
        dropout_rng: random key for dropout.
        dropout_rate: probability to drop a weight, in [0, 1).
        deterministic: whether to leave dropout out.
        dtype: dtype of the computation; none means that of the inputs.
        precision: see `jax.lax.Precision`.
        module: the module in whose `intermediates` to store the weights, under the
            name `attention_weights`.
        force_fp32_for_softmax: whether to take the softmax, and return its result, in
            float32.
        einsum_dot_general: computes the product in place of `jax.lax.dot_general`.
        einsum: computes the product in place of `jax.numpy.einsum`.

    Returns:
        Weights of shape (*batch, heads, queries, keys).

    Raises:
        AttentionShapeError: query and key do not belong together.
        AttentionMaskError: the mask does not fit.
        AttentionHooksError: `einsum` is given with precision or dot product.

    Example:
        >>> import jax.numpy as jnp
        >>> query, key = jnp.ones((1, 2, 1, 4)), jnp.ones((1, 2, 1, 4))
        >>> causal = jnp.array([[True, False], [True, True]])
        >>> dot_product_attention_weights(query, key, mask=causal)[0, 0].tolist()
        [[1.0, 0.0], [0.5, 0.5]]

    References:
        Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """
    if einsum is not None and (precision or einsum_dot_general):
        raise AttentionHooksError(
            "precision/einsum_dot_general and einsum are mutually exclusive. Please "
            "specify only one of them."
        )
    query, key = promote_dtype(query, key, dtype=dtype)
    _check_shapes("depths", -1, query=query.shape, key=key.shape)
    dtype = query.dtype
    query = lax.div(query, _root(query.shape[-1], dtype))
    if einsum is None:
        product = einsum_dot_general or lax.dot_general
        scores = attention_scores(query, key, precision=precision, dot_general=product)
    else:
        scores = einsum("...qhd,...khd->...hqk", query, key)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = mask_scores(scores, mask)
    if force_fp32_for_softmax and dtype != np.float32:
        weights = softmax(lax.convert_element_type(scores, np.float32))
    else:
        weights = softmax(scores)
        if weights.dtype != dtype:
            weights = weights.astype(dtype)
    if module is not None:
        module.sow("intermediates", "attention_weights", weights)
    if not deterministic and dropout_rate > 0.0:
        weights = drop_weights(
            weights,
            dropout_rng,  # pyrefly: ignore[bad-argument-type]
            dropout_rate,
            dtype,
            broadcast=broadcast_dropout,
            batch=key.ndim - 2,
        )
    return weights


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: PRNGKey | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: Dtype | None = None,
    precision: PrecisionLike = None,
    module: Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: Callable[..., Array] | None = None,
    qk_attn_weights_einsum: Callable[..., Array] | None = None,
    attn_weights_value_einsum: Callable[..., Array] | None = None,
) -> Array:
    """Computes attention: `softmax(query @ key / sqrt(depth) + bias) @ value`.

    Args:
        query: array of shape (*batch, queries, heads, depth).
        key: array of shape (*batch, keys, heads, depth).
        value: array of shape (*batch, keys, heads, value depth).
        bias: what is added to the scores, of a shape that broadcasts to
            (*batch, heads, queries, keys).
        mask: which scores count (not zero), of a shape that broadcasts like `bias`.
        broadcast_dropout: whether batch entries and heads share one draw of dropout.
        dropout_rng: random key for dropout.
        dropout_rate: probability to drop a weight, in [0, 1).
        deterministic: whether to leave dropout out.
        dtype: dtype of the computation; none means that of the inputs.
        precision: see `jax.lax.Precision`.
        module: see `dot_product_attention_weights`.
        force_fp32_for_softmax: see `dot_product_attention_weights`; the result is then
            float32 too.
        einsum_dot_general: computes the products in place of `jax.lax.dot_general`.
        qk_attn_weights_einsum: computes the scores in place of `jax.numpy.einsum`.
        attn_weights_value_einsum: computes the averages in place of it.

    Returns:
        Averages of the values, of shape (*batch, queries, heads, value depth).

    Raises:
        AttentionShapeError: query, key and value do not belong together.
        AttentionMaskError: the mask does not fit.
        AttentionHooksError: the functions given contradict each other.

    Example:
        >>> import jax.numpy as jnp
        >>> query, key = jnp.ones((1, 2, 1, 4)), jnp.ones((1, 2, 1, 4))
        >>> value = jnp.array([0.0, 2.0]).reshape(1, 2, 1, 1)
        >>> dot_product_attention(query, key, value).ravel().tolist()
        [1.0, 1.0]

    References:
        Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """
    if (qk_attn_weights_einsum is None) != (attn_weights_value_einsum is None):
        raise AttentionHooksError(
            "qk_attn_weights_einsum and attn_weights_value_einsum must be specified "
            "together."
        )
    if qk_attn_weights_einsum is not None and (precision or einsum_dot_general):
        raise AttentionHooksError(
            "precision/einsum_dot_general and "
            "qk_attn_weights_einsum/attn_weights_value_einsum are mutually exclusive. "
            "Please specify only one of them."
        )
    query, key, value = promote_dtype(query, key, value, dtype=dtype)
    shapes = {"query": query.shape, "key": key.shape, "value": value.shape}
    _check_shapes("lengths", -3, **shapes)
    dropout = broadcast_dropout, dropout_rng, dropout_rate, deterministic
    numerics = query.dtype, precision, module, force_fp32_for_softmax
    products = einsum_dot_general, qk_attn_weights_einsum
    weights = dot_product_attention_weights(
        query, key, bias, mask, *dropout, *numerics, *products
    )
    if attn_weights_value_einsum is not None:
        return attn_weights_value_einsum("...hqk,...khd->...qhd", weights, value)
    product = einsum_dot_general or lax.dot_general
    return weighted_values(weights, value, precision=precision, dot_general=product)


@lru_cache
def _root(depth: int, dtype: Any) -> np.ndarray:
    """The square root of a depth, rounded to float32 before it gets its dtype."""
    wide = np.promote_types(dtype, np.float32) if np.dtype(dtype).kind in "fc" else "f4"
    return np.asarray(np.sqrt(np.asarray(depth, wide)), dtype)


def _check_shapes(what: str, axis: int, **shapes: tuple[int, ...]) -> None:
    """Refuses shapes that do not belong together.

    Args:
        what: name of the axis in which the last two must agree, too.
        axis: that axis.
        **shapes: shapes (*batch, length, heads, depth) by the names of the arrays.

    Raises:
        AttentionShapeError: ranks, batch axes, heads or that axis differ.
    """
    names, (first, *others) = [name[0] for name in shapes], shapes.values()
    *_, left, right = shapes.values()
    problem = None
    if any(len(shape) != len(first) for shape in others):
        problem = f"{', '.join(names)} must have same rank."
    elif len(first) < 3:
        problem = "q, k, v must have the axes (..., length, heads, depth)."
    elif any(shape[:-3] != first[:-3] for shape in others):
        problem = f"{', '.join(names)} batch dims must match."
    elif any(shape[-2] != first[-2] for shape in others):
        problem = f"{', '.join(names)} num_heads must match."
    elif left[axis] != right[axis]:
        problem = f"{', '.join(names[-2:])} {what} must match."
    if problem:
        raise AttentionShapeError(problem, shapes)
