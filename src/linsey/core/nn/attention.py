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
    axes = _axes(axis, query.ndim)
    order, batch = _order(axes, query.ndim)
    back = tuple(order.index(i) for i in range(query.ndim))
    flat = [_flat(x, order, len(batch), len(axes)) for x in (query, key, value)]
    q, k, v = flat  # (*batch, heads, length, depth)
    scores = jnp.matmul(
        q / math.sqrt(q.shape[-1]), jnp.swapaxes(k, -1, -2), precision=precision
    )
    if bias is not None:
        lead = scores.shape[:-2]
        sizes = [tuple(x.shape[i] for i in axes) for x in (query, key)]
        scores = scores.reshape(*lead, *sizes[0], *sizes[1]) + bias
        scores = scores.reshape(*scores.shape[: len(lead)], *q.shape[-2:-1], -1)
    weights = softmax(scores).astype(dtype)
    if not deterministic and dropout_rate > 0.0:
        if dropout_rng is None:
            dropout_rng = scope.make_rng("dropout")
        weights = drop_weights(
            weights,
            dropout_rng,
            dropout_rate,
            dtype,
            broadcast=broadcast_dropout,
            batch=weights.ndim - 2,
        )
    y = jnp.matmul(weights, v, precision=precision)
    whole = tuple(query.shape[i] for i in order[:-1]) + (value.shape[-1],)
    return jnp.transpose(y.reshape(whole), back)


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
    options = {
        "dtype": dtype,
        "kernel_init": kernel_init,
        "bias_init": bias_init,
        "bias": bias,
        "precision": precision,
    }

    def project(name: str, x: Array) -> Array:
        shape = (num_heads, qkv_features // num_heads)
        return scope.child(dense_general, name)(x, shape, axis=-1, **options)

    query = project("query", inputs_q)
    key, value = project("key", inputs_kv), project("value", inputs_kv)
    axes = _axes(attention_axis, query.ndim)
    masks = []
    if causal_mask:
        masks.append(_make_causal_mask(key, axes))
    if padding_mask is not None:
        keys = padding_mask if key_padding_mask is None else key_padding_mask
        masks.append(_pairs(padding_mask, keys, inputs_q, inputs_kv, axes, "and"))
    if segmentation is not None:
        keys = segmentation if key_segmentation is None else key_segmentation
        masks.append(_pairs(segmentation, keys, inputs_q, inputs_kv, axes, "equal"))
    added = None
    for mask in masks:
        one = jnp.where(mask, 0.0, MASKED).astype(dtype)
        added = one if added is None else jnp.minimum(added, one)
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
    out = scope.child(dense_general, "out")
    return out(y, out_features or features, axis=(-2, -1), **options)


def _axes(axis: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """The axes to attend over, of arrays (batch, *axes, heads, depth)."""
    if axis is None:
        return tuple(range(1, rank - 2))
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if not all(1 <= i < rank - 2 for i in axes):
        raise ValueError(
            "Attention axis must be between the batch axis and the last-two axes."
        )
    return axes


def _order(axes: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Batch axes and heads first, then the axes to attend over, then the depth."""
    batch = tuple(i for i in range(rank - 1) if i not in axes)
    return (*batch, *axes, rank - 1), batch


def _flat(x: Array, order: tuple[int, ...], batch: int, axes: int) -> Array:
    """Puts axes in order and merges those to attend over: (*batch, length, depth)."""
    x = jnp.transpose(x, order)
    length = math.prod(x.shape[batch : batch + axes])
    return x.reshape(*x.shape[:batch], length, *x.shape[batch + axes :])


def _make_causal_mask(
    key: Array, attention_axis: Any = None, self_mask: bool = False
) -> Array:
    """The mask in which each position sees those before it, and itself.

    Args:
        key: array of shape (batch, *axes, heads, depth).
        attention_axis: the axes to attend over.
        self_mask: whether it does not see itself.

    Returns:
        A mask of shape (1, ..., 1, *axes, *axes).
    """
    axes = _axes(attention_axis, key.ndim)
    sizes = tuple(key.shape[i] for i in axes)
    length = math.prod(sizes)
    mask = jnp.tril(jnp.ones((length, length), bool), k=-1 if self_mask else 0)
    return mask.reshape((1,) * (key.ndim - len(axes) - 1) + sizes + sizes)


def _pairs(
    of_queries: Any,
    of_keys: Any,
    inputs_q: Array,
    inputs_kv: Array,
    axes: tuple[int, ...],
    kind: str,
) -> Array:
    """The mask of pairs of positions that are both valid, or of one segment."""

    def arranged(x: Any, like: Array) -> Array:
        x = jnp.reshape(x, like.shape[:-1])
        batch = tuple(i for i in range(x.ndim) if i not in axes)
        return jnp.transpose(x, (*batch, *axes))  # (*batch, *axes)

    q, k = arranged(of_queries, inputs_q), arranged(of_keys, inputs_kv)
    batch, count = q.ndim - len(axes), len(axes)
    q = jnp.expand_dims(q, (batch, *range(q.ndim + 1, q.ndim + 1 + count)))
    k = jnp.expand_dims(k, (batch, *range(batch + 1, batch + 1 + count)))
    return jnp.equal(q, k) if kind == "equal" else jnp.logical_and(q, k)
