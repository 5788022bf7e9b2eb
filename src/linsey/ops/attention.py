"""Attention, the average of values weighted by how well queries match keys, and masks.

Queries, keys and values have the axes (*batch, length, heads, depth), scores and
weights (*batch, heads, queries, keys). A mask says which queries may look at which
keys, and broadcasts to the scores. Shapes are static, so each function traces to
exactly the equations of its formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random

from linsey.errors.base import OptionError, ShapeError
from linsey.errors.misuse import report_misuse
from linsey.ops.deferred import resolve
from linsey.ops.sharding import leave_to_compiler, split_axes, split_like
from linsey.promotion import promote_types
from linsey.typing import Dtype, PrecisionLike, PRNGKey

if TYPE_CHECKING:
    from jaxtyping import Float, Inexact, Shaped

# -- the products --------------------------------------------------------------------


def attention_scores(
    query: Inexact[Array, "*batch queries heads depth"],
    key: Inexact[Array, "*batch keys heads depth"],
    *,
    precision: PrecisionLike = None,
    dot_general: Callable[..., Array] = lax.dot_general,
) -> Inexact[Array, "*batch heads queries keys"]:
    """Compare queries with keys: `s[..., h, q, k] = sum_d query[...] key[...]`.

    Args:
        query: array of shape (*batch, queries, heads, depth).
        key: array of shape (*batch, keys, heads, depth), of the same dtype.
        precision: see `jax.lax.Precision`.
        dot_general: replacement for `jax.lax.dot_general`, with the same arguments.

    Returns:
        Scores of shape (*batch, heads, queries, keys).

    Example:
        >>> query, key = jnp.ones((1, 2, 1, 3)), jnp.ones((1, 4, 1, 3))
        >>> attention_scores(query, key)[0, 0].tolist()
        [[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]
    """
    query, key = resolve(query), resolve(key)
    last = query.ndim - 1
    batch = (*range(last - 2), last - 1)
    (*outer, lengths, heads, depth), (*_, keys, _, _) = map(split_axes, (query, key))
    if (depth or (lengths and keys)) and dot_general is lax.dot_general:
        compare = partial(attention_scores, precision=precision)
        return leave_to_compiler(compare, (*outer, heads, lengths, keys), query, key)
    return dot_general(
        query,
        key,
        (((last,), (last,)), (batch, batch)),
        precision,
        preferred_element_type=query.dtype,
    )


def weighted_values(
    weights: Inexact[Array, "*weights_batch heads queries keys"],
    value: Inexact[Array, "*batch keys heads value_depth"],
    *,
    precision: PrecisionLike = None,
    dot_general: Callable[..., Array] = lax.dot_general,
) -> Inexact[Array, "*weights_batch queries heads value_depth"]:
    """Average values: `y[..., q, h] = sum_k weights[..., h, q, k] value[..., k, h]`.

    Args:
        weights: array of shape (*batch, heads, queries, keys), or with one more batch
            axis in front.
        value: array of shape (*batch, keys, heads, depth).
        precision: see `jax.lax.Precision`.
        dot_general: replacement for `jax.lax.dot_general`, with the same arguments.

    Returns:
        Averages of shape (*batch, queries, heads, depth).

    Example:
        >>> weights = jnp.array([[[0.25, 0.75]]])  # (heads, queries, keys)
        >>> value = jnp.array([[[0.0]], [[4.0]]])  # (keys, heads, depth)
        >>> weighted_values(weights, value).tolist()
        [[[3.0]]]
    """
    weights, value = resolve(weights), resolve(value)
    dtype = value.dtype
    if weights.dtype != dtype:
        dtype = promote_types(weights.dtype, dtype)
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


def mask_scores(
    scores: Float[Array, "*scores"], mask: Shaped[Array | np.ndarray, "*mask"]
) -> Float[Array, "*shape"]:
    """Give masked scores the lowest finite value.

    If all keys of a query are masked, they all get the same weight.

    Args:
        scores: array of shape (*batch, heads, queries, keys).
        mask: array whose shape broadcasts with that of the scores, which are kept where
            it is not zero.

    Returns:
        Scores, of the shape that scores and mask broadcast to.

    Raises:
        ShapeError: the shapes do not broadcast.

    Example:
        >>> mask_scores(jnp.ones((1, 1, 2)), jnp.array([True, False])).tolist()
        [[[1.0, -3.4028234663852886e+38]]]
    """
    scores, mask = resolve(scores), resolve(mask)
    if mask.dtype != bool:
        mask = lax.ne(mask, np.zeros((), mask.dtype))
    if mask.shape != scores.shape:
        try:
            shape = jnp.broadcast_shapes(mask.shape, scores.shape)
        except ValueError:
            lacks_heads = mask.shape == (*scores.shape[:-3], *scores.shape[-2:])
            missing = "Add the axis of the heads: `mask[..., None, :, :]`. "
            missing = missing if lacks_heads else ""
            raise ShapeError(
                "Incompatible shapes for broadcasting: the mask has shape "
                f"{mask.shape}, the attention weights {scores.shape}.",
                "The axes of the weights are (..., heads, queries, keys).",
                f"{missing}Make it with `make_attention_mask` or `make_causal_mask`, "
                "which give the shape (batch, 1, queries, keys).",
            ) from None
        mask, scores = _broadcast(mask, shape), _broadcast(scores, shape)
    lowest = lax.full_like(scores, jnp.finfo(scores.dtype).min)
    return lax.select(split_like(mask, scores), scores, lowest)


def softmax(scores: Float[Array, "*rows keys"]) -> Float[Array, "*rows keys"]:
    """Turn scores into weights over the last axis: `exp(s) / sum(exp(s))`.

    The largest score is subtracted first, so that nothing overflows; half-precision
    values are summed in float32.

    Args:
        scores: array of shape (..., keys).

    Returns:
        Positive weights with sum 1 over the last axis, of the same shape and dtype.

    Example:
        >>> softmax(jnp.array([1000.0, 1000.0])).tolist()
        [0.5, 0.5]
    """
    scores = resolve(scores)
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
    weights: Inexact[Array, "*leading queries keys"],
    key: PRNGKey,
    rate: float,
    dtype: Dtype,
    *,
    broadcast: bool,
    batch: int,
) -> Inexact[Array, "*leading queries keys"]:
    """Drop attention weights at random and scale the others by `1 / (1 - rate)`.

    Args:
        weights: array of shape (*batch, heads, queries, keys).
        key: a random key.
        rate: probability of dropping a weight, in [0, 1].
        dtype: dtype of the factors.
        broadcast: whether batch entries and heads share one random mask.
        batch: number of leading axes that share it.

    Returns:
        An array of the shape of `weights`.

    Raises:
        OptionError: the rate is not in [0, 1].

    Example:
        >>> import jax
        >>> y = drop_weights(
        ...     jnp.ones((2, 1, 8)), jax.random.key(0), 0.5, jnp.float32,
        ...     broadcast=True, batch=1,
        ... )
        >>> y[0].tolist() == y[1].tolist(), set(y.ravel().tolist()) == {0.0, 2.0}
        (True, True)
    """
    if not 0.0 <= rate < 1.0:
        if rate == 1.0:
            return lax.full_like(weights, 0)
        error = OptionError(
            f"The rate of dropout of attention weights is {rate}.",
            "It is the probability to drop a weight, in [0, 1].",
            "To keep 90 % of the weights write `dropout_rate=0.1`.",
        )
        report_misuse(error)
        if rate < 0.0:
            return weights
    shape = weights.shape
    if broadcast:
        shape = (1,) * batch + shape[-2:]
    keep = 1.0 - rate
    kept = lax.convert_element_type(random.bernoulli(key, keep, shape), dtype)
    factors = lax.div(kept, np.asarray(keep, dtype))
    if factors.dtype == weights.dtype and factors.ndim == weights.ndim:
        return lax.mul(weights, factors)
    return weights * factors


def _broadcast(x: Array | np.ndarray, shape: tuple[int, ...]) -> Array:
    if x.shape == shape:
        return x if isinstance(x, Array) else jnp.asarray(x)
    axes = range(len(shape) - x.ndim, len(shape))
    return lax.broadcast_in_dim(x, shape, tuple(axes))


# -- masks ---------------------------------------------------------------------------


def make_attention_mask(
    query_input: Shaped[Array | np.ndarray, "*#batch queries"],
    key_input: Shaped[Array | np.ndarray, "*#batch keys"],
    pairwise_fn: Callable[[Array, Array], Array] = jnp.multiply,
    extra_batch_dims: int = 0,
    dtype: Dtype = jnp.float32,
) -> Shaped[Array, "*mask queries keys"]:
    """Make a mask from facts about each query and each key.

        mask[..., 0, q, k] = pairwise_fn(query_input[..., q], key_input[..., k])

    Args:
        query_input: array of shape (*batch, queries), such as whether each is valid.
        key_input: array of shape (*batch, keys).
        pairwise_fn: function that combines both by broadcasting.
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
    (*outer, lengths), (*_, splits) = map(split_axes, (query_input, key_input))
    if lengths and splits:
        make = partial(
            make_attention_mask,
            pairwise_fn=pairwise_fn,
            extra_batch_dims=extra_batch_dims,
            dtype=dtype,
        )
        axes = (*[None] * extra_batch_dims, *outer, None, lengths, splits)
        return leave_to_compiler(make, axes, query_input, key_input)
    queries = lax.expand_dims(query_input, (query_input.ndim,))
    keys = lax.expand_dims(key_input, (key_input.ndim - 1,))
    mask = jnp.asarray(pairwise_fn(queries, keys))
    heads = mask.ndim - 2 + extra_batch_dims
    return lax.convert_element_type(
        lax.expand_dims(mask, (*range(extra_batch_dims), heads)), dtype
    )


def make_causal_mask(
    x: Shaped[Array | np.ndarray, "*batch length"],
    extra_batch_dims: int = 0,
    dtype: Dtype = jnp.float32,
) -> Shaped[Array, "*mask length length"]:
    """Make a mask that lets each element see itself and those before it.

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
    indices = lax.broadcasted_iota(np.dtype("int32"), shape, len(shape) - 1)
    return make_attention_mask(
        indices, indices, jnp.greater_equal, extra_batch_dims, dtype
    )


def combine_masks(
    *masks: Shaped[Array | np.ndarray, "*#mask"] | None, dtype: Dtype = jnp.float32
) -> Shaped[Array, "*#mask"] | None:
    """Combine masks: an entry is kept if all of them keep it.

    Args:
        *masks: masks of the same rank whose shapes broadcast; any that are `None` are
            ignored.
        dtype: dtype of the result.

    Returns:
        A mask, or `None` if there is nothing to combine.

    Raises:
        ShapeError: the masks have different ranks.

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
        raise ShapeError(
            f"masks must have same rank: {ranks}",
            "It is unknown which axes of the smaller one are missing.",
            "Add axes of size 1, for example `mask[:, None]` for the heads.",
        )
    combined = given[0]
    for mask in given[1:]:
        combined = jnp.logical_and(combined.astype(bool), mask.astype(bool))
    return lax.convert_element_type(combined, dtype)


# -- heads, and attention over any axes ----------------------------------------------


def divide_heads(features: int, num_heads: int) -> tuple[int, int]:
    """Return the number of heads and the number of features per head.

    Raises:
        OptionError: the features cannot be divided among the heads.

    Example:
        >>> divide_heads(8, 2)
        (2, 4)
    """
    if features % num_heads:
        rounded = -(-features // num_heads) * num_heads
        raise OptionError(
            f"Memory dimension ({features}) must be divisible by number of heads "
            f"({num_heads}).",
            "Each head works on `qkv_features // num_heads` features.",
            f"Write for example `qkv_features={rounded}`; without it the width of "
            "`inputs_q` is taken.",
        )
    return num_heads, features // num_heads


def make_padding_mask(
    padding_mask_query: Shaped[Array | np.ndarray, "*queries"],
    padding_mask_key: Shaped[Array | np.ndarray, "*keys"],
    query_shape: Sequence[int],
    key_shape: Sequence[int],
    attention_axis: int | Sequence[int] | None = None,
    segmentation_mask: bool = False,
) -> Shaped[Array, "*mask"]:
    """Make a mask from the validity of each element, or from its segment.

    Args:
        padding_mask_query: validity or segment of each query, of shape (batch, *axes).
        padding_mask_key: the same for the keys.
        query_shape: shape of the queries, (batch, *axes, heads, depth).
        key_shape: shape of the keys.
        attention_axis: the axes to attend over. If `None`, all axes between batch and
            heads.
        segmentation_mask: whether the values of query and key must be equal (segments),
            rather than both nonzero (validity).

    Returns:
        A mask of shape (*batch, 1, *query axes, *key axes).

    Raises:
        OptionError: an axis is the batch axis, or one of the last two.

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
    """Return the axes to attend over, of arrays of shape (batch, *axes, heads, depth).

    Raises:
        OptionError: an axis is the batch axis, or one of the last two.

    Example:
        >>> attended_axes(None, 5), attended_axes(2, 5)
        ((1, 2), (2,))
    """
    if axis is None:
        return tuple(range(1, rank - 2))
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if not all(1 <= i < rank - 2 for i in axes):
        raise OptionError(
            "Attention axis must be between the batch axis and the last-two axes. "
            f"Found {axes} for arrays with {rank} axes.",
            "The first axis is that of the batch, the last two are heads and depth.",
            f"Choose among the axes 1 to {rank - 3}, or leave it out for all of them.",
        )
    return axes


def merge_axes(
    x: Shaped[Array, "*shape"], axes: Sequence[int], tail: int
) -> Shaped[Array, "*merged"]:
    """Merge axes into one, before the last `tail`: (*batch, length, *last).

    Example:
        >>> merge_axes(jnp.ones((2, 3, 4, 5, 6)), (1, 3), 1).shape
        (2, 4, 15, 6)
    """
    end = x.ndim - tail
    start = end - len(axes)
    x = jnp.moveaxis(x, axes, range(start, end))
    return x.reshape(*x.shape[:start], math.prod(x.shape[start:end]), *x.shape[end:])
