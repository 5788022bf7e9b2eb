"""Batch normalization: moments of the batch in training, running ones in evaluation.

    mean, var = moments of x over all axes but the channels
    y = (x - mean) * scale / sqrt(var + epsilon) + bias
    running = momentum * running + (1 - momentum) * (mean, var)

The running averages pass over a batch that has nothing to say: an empty one, one that
is masked altogether, and, unless told otherwise, channels whose moments are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from linsey.ops.broadcast import canonical_axes, expand_rank, other_axes
from linsey.ops.cpu.dispatch import takes_channels
from linsey.ops.ema import ema
from linsey.ops.ghost import join_examples, shard_groups, split_examples
from linsey.ops.moments import Moments
from linsey.ops.named_axes import as_groups, as_names, shard_count, sum_shards
from linsey.ops.normalize import result_dtype
from linsey.ops.renorm import renormalize
from linsey.ops.standardize import (
    Plan,
    apply_inverse,
    apply_moments,
    plan_moments,
    standardize,
)


def batch_norm(
    x: Any,
    scale: Any = None,
    bias: Any = None,
    weights: Any = None,
    *,
    axis: int | Iterable[int] = -1,
    epsilon: Any = 1e-5,
    dtype: Any = None,
    axis_name: Any = None,
    axis_index_groups: Iterable[Sequence[int]] | None = None,
) -> tuple[Array, Moments]:
    """Normalizes a batch by its own moments, as in training.

    In evaluation use `normalize` with averages kept by `ema`.

    Args:
        x: array of any shape.
        scale: factors, of the shape of the axes `axis`, or none.
        bias: offsets of that shape, or none.
        weights: mask or weights >= 0, of a shape that broadcasts to that of `x`.
        axis: the axes of the channels, which are normalized one by one.
        epsilon: what is added to the variance.
        dtype: dtype of the result; none means the one that `x`, `scale` and `bias`
            promote to. Moments are taken in float32 at least.
        axis_name: name or names of mapped axes that belong to the batch.
        axis_index_groups: groups of indices of that axis; each is a batch of its own.

    Returns:
        The normalized batch, and its moments per channel.

    Raises:
        ValueError: `weights` does not broadcast to the shape of `x`.
        NameError: an `axis_name` is not bound.

    Example:
        >>> x = jnp.array([[1.0, 5.0], [3.0, 9.0]])
        >>> y, (mean, var, count) = batch_norm(x, epsilon=0.0)
        >>> y.tolist(), mean.tolist(), var.tolist(), float(count)
        ([[-1.0, -1.0], [1.0, 1.0]], [2.0, 7.0], [1.0, 4.0], 2.0)

    References:
        Ioffe, Szegedy 2015, https://arxiv.org/abs/1502.03167
    """
    x = jnp.asarray(x)
    channels = canonical_axes(axis, x.ndim)
    plan = Plan(
        other_axes(channels, x.ndim),
        channels,
        dtype,
        as_names(axis_name),
        as_groups(axis_index_groups),
    )
    if weights is not None:
        weights = expand_rank(weights, x.shape)
    scale, bias = (None if v is None else jnp.asarray(v) for v in (scale, bias))
    return standardize(plan, x, weights, scale, bias, epsilon)


class Rule(NamedTuple):
    """How running averages follow a batch, and what counts as one; hashable.

    Attributes:
        group_size: number of examples, the first axis, that are normalized together;
            none means all.
        unbiased: whether the average is of the unbiased variance.
        propagate: whether moments that are not finite enter the averages.
    """

    group_size: int | None = None
    unbiased: bool = False
    propagate: bool = False


@partial(jax.jit, static_argnums=(0, 1))
def train_batch_norm(
    plan: Plan,
    rule: Rule,
    x: Array,
    weights: Array | None,
    scale: Array | None,
    bias: Array | None,
    running: tuple[Array, Array],
    epsilon: Any,
    decay: tuple[Any, Any],
    limits: tuple[Any, Any] | None = None,
) -> tuple[Array, tuple[Array, Array]]:
    """Normalizes a batch and moves the running mean and variance towards its own.

    Args:
        plan: over which axes, with which channels, to which dtype.
        rule: how the running moments follow.
        x: array of any shape.
        weights: mask or weights of the rank of `x`, or none. Where all of them are
            zero, the running moments are used in place of those of the batch.
        scale: factors per channel, or none.
        bias: offsets per channel, or none.
        running: running mean and variance.
        epsilon: what is added to the variance.
        decay: `momentum` and `1 - momentum`.
        limits: `r_max` and `d_max` of batch renormalization, or none.

    Returns:
        The normalized batch, and the new running mean and variance.

    Example:
        >>> running = jnp.zeros(1), jnp.ones(1)
        >>> y, running = train_batch_norm(
        ...     Plan((0,), (1,)), Rule(), jnp.array([[1.0], [5.0]]), None, None, None,
        ...     running, 0.0, (0.5, 0.5),
        ... )
        >>> y.ravel().tolist(), [value.item() for value in running]
        ([-1.0, 1.0], [1.5, 2.5])
    """
    if rule.group_size is None and limits is None and weights is None:
        if _by_channels(plan, x, scale, bias):
            from linsey.ops.standardize_channels import standardize_channels

            y, mean, var = standardize_channels(x, scale, bias, epsilon)
            count = lax.full((), math.prod(x.shape[:-1]), var.dtype)
            return y, _follow(plan, rule, running, Moments(mean, var, count), decay)
    whole, places = plan, None
    if rule.group_size is not None:
        plan, x, weights, places = _split(plan, x, weights, rule.group_size)
    moments = plan_moments(plan, x, weights)
    updated = _follow(whole, rule, running, moments, decay)
    mean, inverse = _choose(weights, moments, running, epsilon, limits)
    y = apply_inverse(plan, x, weights, mean, inverse, scale, bias)
    return y if rule.group_size is None else join_examples(y, places), updated


def _by_channels(plan: Plan, x: Array, scale: Any, bias: Any) -> bool:
    """Says whether `standardize_channels` computes what a plan asks for, and faster."""
    return (
        plan.centred
        and not plan.names
        and plan.features == (x.ndim - 1,)
        and takes_channels(x, plan.axes)
        and result_dtype(x, scale, bias, plan.dtype) == jnp.float32
        and all(v is None or v.dtype == jnp.float32 for v in (scale, bias))
    )


@partial(jax.jit, static_argnums=(0, 1))
def train_moments(
    plan: Plan,
    rule: Rule,
    x: Array,
    running: tuple[Array, Array],
    epsilon: Any,
    decay: tuple[Any, Any],
    limits: tuple[Any, Any] | None = None,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Does what `train_batch_norm` does but for the last step, to normalize.

    Returns:
        Mean and inverse deviation to normalize by, and the new running mean and
        variance.

    Example:
        >>> (mean, inverse), _ = train_moments(
        ...     Plan((0,), (1,)), Rule(), jnp.array([[1.0], [5.0]]),
        ...     (jnp.zeros(1), jnp.ones(1)), 0.0, (0.5, 0.5),
        ... )
        >>> mean.item(), inverse.item()
        (3.0, 0.5)
    """
    moments = plan_moments(plan, x, None)
    updated = _follow(plan, rule, running, moments, decay)
    return _choose(None, moments, running, epsilon, limits), updated


def _choose(
    weights: Array | None,
    moments: Moments,
    running: tuple[Array, Array],
    epsilon: Any,
    limits: tuple[Any, Any] | None,
) -> tuple[Array, Array]:
    """Chooses the mean and the inverse deviation that a batch is normalized by."""
    mean, var, count = moments
    if weights is not None:
        mean = jnp.where(count > 0, mean, running[0])
        var = jnp.where(count > 0, var, running[1])
    if limits is None:
        return mean, lax.rsqrt(var + epsilon)
    sigma, running_sigma = (lax.sqrt(v + epsilon) for v in (var, running[1]))
    return renormalize(mean, sigma, running[0], running_sigma, *limits)


def _follow(
    plan: Plan,
    rule: Rule,
    running: tuple[Array, Array],
    moments: Moments,
    decay: tuple[Any, Any],
) -> tuple[Array, Array]:
    """Moves running moments towards those of a batch, unless they are not valid."""
    mean, var, count = moments
    if rule.unbiased:
        degrees = jnp.where(count > 1, count - 1, 1)
        var = jnp.where(count > 1, var * count / degrees, var)
    if rule.group_size is not None:
        mean, var, count = _average_groups(plan, mean, var, count)
    valid = count > 0
    if not rule.propagate:
        valid = jnp.isfinite(mean) & jnp.isfinite(var) & valid
    return (
        ema(running[0], mean, decay[0], valid, complement=decay[1]),
        ema(running[1], var, decay[0], valid, complement=decay[1]),
    )


def _split(
    plan: Plan, x: Array, weights: Array | None, size: int
) -> tuple[Plan, Array, Array | None, Any]:
    """Divides a batch into groups along a new first axis, or shards into groups."""
    shards, groups = shard_count(plan.names), None
    if shards > 1:
        groups = shard_groups(shards, x.shape[0], size)
    names = () if groups is None else plan.names
    x, weights, places = split_examples(x, weights, size)
    axes, features = (tuple(a + 1 for a in axes) for axes in (plan.axes, plan.features))
    plan = plan._replace(axes=axes, features=features, names=names, groups=groups)
    return plan, x, weights, places


def _average_groups(
    plan: Plan, mean: Array, var: Array, count: Array
) -> tuple[Array, Array, Array]:
    """Averages the moments of groups, and of those that other shards hold.

    Not the moments of the whole batch: in evaluation the variance has to be what the
    groups were divided by in training.
    """
    count = jnp.broadcast_to(count, mean.shape)
    mean, var = (jnp.where(count > 0, count * v, 0) for v in (mean, var))
    sums = jnp.sum(jnp.stack([mean, var, count]), axis=1)
    mean, var, total = sum_shards(lax.stop_gradient(sums), plan.names)
    divisor = jnp.where(total > 0, total, 1)
    return mean / divisor, var / divisor, total


@partial(jax.jit, static_argnums=0)
def evaluate_batch_norm(
    plan: Plan,
    x: Array,
    scale: Array | None,
    bias: Array | None,
    running: tuple[Array, Array],
    epsilon: Any,
) -> Array:
    """Normalizes a batch by running moments; the arguments are as in training.

    Example:
        >>> running = jnp.ones(1), jnp.full(1, 4.0)
        >>> x = jnp.array([[1.0], [5.0]])
        >>> evaluate_batch_norm(Plan((0,), (1,)), x, None, None, running, 0.0).tolist()
        [[0.0], [2.0]]
    """
    return apply_moments(plan, x, None, *running, scale, bias, epsilon)
