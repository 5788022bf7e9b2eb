"""Batch normalization: moments of the batch in training, running ones in evaluation.

    mean, var = moments of x over all axes but the channels
    y = (x - mean) * scale / sqrt(var + epsilon) + bias
    running = momentum * running + (1 - momentum) * (mean, var)

The running averages pass over a batch that has nothing to say: an empty one, one that
is masked altogether, and channels whose moments are not finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from linsey.ops.broadcast import canonical_axes, expand_rank, other_axes
from linsey.ops.ema import ema
from linsey.ops.moments import Moments
from linsey.ops.named_axes import as_groups, as_names
from linsey.ops.standardize import Plan, apply_moments, plan_moments, standardize


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


@partial(jax.jit, static_argnums=0)
def train_batch_norm(
    plan: Plan,
    x: Array,
    weights: Array | None,
    scale: Array | None,
    bias: Array | None,
    running: tuple[Array, Array],
    epsilon: Any,
    decay: tuple[Any, Any],
) -> tuple[Array, tuple[Array, Array]]:
    """Normalizes a batch and moves the running mean and variance towards its own.

    Args:
        plan: over which axes, with which channels, to which dtype.
        x: array of any shape.
        weights: mask or weights of the rank of `x`, or none. Where all of them are
            zero, the running moments are used in place of those of the batch.
        scale: factors per channel, or none.
        bias: offsets per channel, or none.
        running: running mean and variance.
        epsilon: what is added to the variance.
        decay: `momentum` and `1 - momentum`.

    Returns:
        The normalized batch, and the new running mean and variance.

    Example:
        >>> running = jnp.zeros(1), jnp.ones(1)
        >>> y, running = train_batch_norm(
        ...     Plan((0,), (1,)), jnp.array([[1.0], [5.0]]), None, None, None,
        ...     running, 0.0, (0.5, 0.5),
        ... )
        >>> y.ravel().tolist(), [value.item() for value in running]
        ([-1.0, 1.0], [1.5, 2.5])
    """
    mean, var, count = plan_moments(plan, x, weights)
    valid = jnp.isfinite(mean) & jnp.isfinite(var) & (count > 0)
    updated = (
        ema(running[0], mean, decay[0], valid, complement=decay[1]),
        ema(running[1], var, decay[0], valid, complement=decay[1]),
    )
    if weights is not None:
        mean = jnp.where(count > 0, mean, running[0])
        var = jnp.where(count > 0, var, running[1])
    y = apply_moments(plan, x, weights, mean, var, scale, bias, epsilon)
    return y, updated


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
