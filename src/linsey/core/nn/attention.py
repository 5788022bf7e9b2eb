"""Attention over any axes as functions of scopes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import zeros

from linsey.core.nn.linear import default_kernel_init, dense_general
from linsey.core.scope import Scope
from linsey.ops.attention import drop_weights, softmax
from linsey.ops.attention_axes import attended_axes, make_padding_mask, merge_axes
from linsey.ops.attention_masks import combine_masks

__all__ = ["dot_product_attention", "multi_head_dot_product_attention"]

MASKED = -1e10


def dot_product_attention(
    scope: Scope,
    query: Array,
    key: Array,
    value: Array,
    dtype: Any = jnp.float32,
    bias: Array | None = None,
    axis: int | Sequence[int] | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: Array | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    precision: Any = None,
) -> Array:
    """Averages values by how well queries match keys, over any axes.

    Args:
        scope: gives the random key for dropout, from the stream `dropout`.
        query: array of shape (batch, *axes, heads, depth).
        key: array of such a shape.
        value: array of such a shape.
        dtype: dtype of the weights.
        bias: what is added to the scores, of a shape that broadcasts to (*batch, heads,
            *query axes, *key axes).
        axis: the axes to attend over; none means all between batch and heads. The
            others count as batch.
        broadcast_dropout: whether batch entries and heads share one draw of dropout.
        dropout_rng: random key for dropout.
        dropout_rate: probability to drop a weight, in [0, 1).
        deterministic: whether to leave dropout out.
        precision: see `jax.lax.Precision`.

    Returns:
        An array of the shape of `query`.

    Raises:
        ValueError: an axis is the batch axis, or one of the last two.
    """
    axes = attended_axes(axis, query.ndim)
    sizes = [x.shape[i] for x in (query, key) for i in axes]
    q, k, v = (merge_axes(x, axes, 2) for x in (query, key, value))
    *batch, length, heads, depth = q.shape
    scores = jnp.einsum(
        "...qhd,...khd->...hqk", q / math.sqrt(depth), k, precision=precision
    )
    if bias is not None:
        scores = scores.reshape(*scores.shape[:-2], *sizes) + bias
        scores = scores.reshape(*scores.shape[: len(batch) + 1], length, -1)
    weights = softmax(scores).astype(dtype)  # (*batch, heads, queries, keys)
    if not deterministic and dropout_rate > 0.0:
        weights = drop_weights(
            weights,
            scope.make_rng("dropout") if dropout_rng is None else dropout_rng,
            dropout_rate,
            dtype,
            broadcast=broadcast_dropout,
            batch=weights.ndim - 2,
        )
    y = jnp.einsum("...hqk,...khd->...qhd", weights, v, precision=precision)
    y = y.reshape(*batch, *sizes[: len(axes)], heads, -1)
    return jnp.moveaxis(y, range(len(batch), y.ndim - 2), axes)


def multi_head_dot_product_attention(
    scope: Scope,
    inputs_q: Array,
    inputs_kv: Array,
    num_heads: int,
    dtype: Any = jnp.float32,
    qkv_features: int | None = None,
    out_features: int | None = None,
    attention_axis: int | Sequence[int] | None = None,
    causal_mask: bool = False,
    padding_mask: Array | None = None,
    key_padding_mask: Array | None = None,
    segmentation: Array | None = None,
    key_segmentation: Array | None = None,
    cache: bool = False,
    broadcast_dropout: bool = True,
    dropout_rng: Array | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    precision: Any = None,
    kernel_init: Any = default_kernel_init,
    bias_init: Any = zeros,
    bias: bool = True,
    attention_fn: Callable[..., Array] = dot_product_attention,
) -> Array:
    """Attends with several heads, each over its own projections of the inputs.

    Args:
        scope: holds the projections `query`, `key`, `value` and `out`.
        inputs_q: array of shape (batch, *axes, features).
        inputs_kv: array of such a shape, or none for `inputs_q`.
        num_heads: number of heads.
        dtype: dtype of the computation.
        qkv_features: features of all heads together; none means those of `inputs_q`.
        out_features: features of the outputs; none means those of `inputs_q`.
        attention_axis: the axes to attend over; none means all but batch and features.
        causal_mask: whether positions see those before them only.
        padding_mask: which positions are valid, of shape (batch, *axes).
        key_padding_mask: the same for the keys; none means `padding_mask`.
        segmentation: numbers of segments, of shape (batch, *axes); positions see those
            of their segment only.
        key_segmentation: the same for the keys; none means `segmentation`.
        cache: not supported here; use `linen.MultiHeadDotProductAttention`.
        broadcast_dropout: whether batch entries and heads share one draw of dropout.
        dropout_rng: random key for dropout.
        dropout_rate: probability to drop a weight, in [0, 1).
        deterministic: whether to leave dropout out.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of the kernels.
        bias_init: initializer of the biases.
        bias: whether the projections add a bias.
        attention_fn: computes attention, called like `dot_product_attention`.

    Returns:
        An array of shape (batch, *axes, out_features).

    Raises:
        AssertionError: the features cannot be divided among the heads.
        NotImplementedError: a cache is asked for.
    """
    if cache:
        assert causal_mask, "Caching is only support for causal attention."
        raise NotImplementedError(
            "There is no cache in the core: use "
            "`linen.MultiHeadDotProductAttention(decode=True)`."
        )
    inputs_kv = inputs_q if inputs_kv is None else inputs_kv
    features = inputs_q.shape[-1]
    qkv_features = qkv_features or features
    assert qkv_features % num_heads == 0, (
        "Memory dimension must be divisible by number of heads."
    )

    def project(name: str, x: Array, to: Any, axis: Any = -1) -> Array:
        inits = kernel_init, bias_init
        dense = scope.child(dense_general, name)
        return dense(x, to, axis, (), bias, dtype, *inits, precision)

    heads = num_heads, qkv_features // num_heads
    query = project("query", inputs_q, heads)
    key, value = project("key", inputs_kv, heads), project("value", inputs_kv, heads)
    axes = attended_axes(attention_axis, query.ndim)

    masks = []  # each of shape (*batch, 1, *query axes, *key axes)
    if causal_mask:
        sizes = [key.shape[i] for i in axes]
        lead = (1,) * (key.ndim - len(axes) - 1)
        triangle = jnp.tril(jnp.ones((math.prod(sizes),) * 2, bool))
        masks.append(triangle.reshape(*lead, *sizes, *sizes))
    for of_queries, of_keys, is_segments in (
        (padding_mask, key_padding_mask, False),
        (segmentation, key_segmentation, True),
    ):
        if of_queries is not None:
            of_keys = of_queries if of_keys is None else of_keys
            shapes = query.shape, key.shape
            masks.append(
                make_padding_mask(of_queries, of_keys, *shapes, axes, is_segments)
            )
    mask = combine_masks(*masks, dtype=jnp.bool_)
    added = None if mask is None else jnp.where(mask, 0.0, MASKED).astype(dtype)
    y = scope.child(attention_fn)(
        query,
        key,
        value,
        dtype=dtype,
        axis=axes,
        bias=added,
        precision=precision,
        dropout_rng=dropout_rng,
        dropout_rate=dropout_rate,
        broadcast_dropout=broadcast_dropout,
        deterministic=deterministic,
    )
    return project("out", y, out_features or features, (-2, -1))
