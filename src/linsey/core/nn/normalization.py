"""Normalization as functions of scopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import ones, zeros

from linsey.core.scope import Scope
from linsey.ops.ema import ema


def _affine(
    scope: Scope,
    y: Array,
    shape: Sequence[int],
    stored: Sequence[int],
    bias_init: Any,
    scale_init: Any,
) -> Array:
    """Multiplies with `scale` and adds `bias`, where there are initializers."""
    if scale_init is not None:
        y = y * scope.param("scale", scale_init, stored).reshape(shape)
    if bias_init is not None:
        y = y + scope.param("bias", bias_init, stored).reshape(shape)
    return y


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    mean = jnp.mean(x, axes, keepdims=True)
    return mean, jnp.mean(lax.square(x - mean), axes, keepdims=True)


def layer_norm(
    scope: Scope,
    x: Array,
    epsilon: float = 1e-6,
    dtype: Any = jnp.float32,
    bias: bool = True,
    scale: bool = True,
    bias_init: Any = zeros,
    scale_init: Any = ones,
) -> Array:
    """Normalizes each example by mean and variance of its last axis."""
    wide = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
    mean, var = _moments(wide, (x.ndim - 1,))
    y = (wide - mean) * lax.rsqrt(var + epsilon)
    shape = (x.shape[-1],)
    inits = (bias_init if bias else None, scale_init if scale else None)
    return _affine(scope, y, shape, shape, *inits).astype(dtype)


def group_norm(
    scope: Scope,
    x: Array,
    num_groups: int | None = 32,
    group_size: int | None = None,
    epsilon: float = 1e-6,
    dtype: Any = jnp.float32,
    bias: bool = True,
    scale: bool = True,
    bias_init: Any = zeros,
    scale_init: Any = ones,
) -> Array:
    """Normalizes each example by mean and variance of groups of channels.

    Raises:
        ValueError: the channels cannot be divided, or `num_groups` and `group_size`
            are both given, or neither.
    """
    if (num_groups is None) == (group_size is None):
        raise ValueError("Give one of `num_groups` and `group_size`.")
    channels = x.shape[-1]
    groups = num_groups or channels // (group_size or 1)
    if channels % groups or (group_size and channels % group_size):
        raise ValueError(
            f"{channels} channels cannot be divided into {groups} equal groups."
        )
    wide = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
    grouped = wide.reshape(*x.shape[:-1], groups, channels // groups)
    axes = (*range(1, x.ndim - 1), x.ndim)
    mean, var = _moments(grouped, axes)
    y = ((grouped - mean) * lax.rsqrt(var + epsilon)).reshape(x.shape)
    shape = (1,) * (x.ndim - 1) + (channels,)
    inits = (bias_init if bias else None, scale_init if scale else None)
    return _affine(scope, y, shape, shape, *inits).astype(dtype)


def batch_norm(
    scope: Scope,
    x: Array,
    use_running_average: bool = False,
    axis: int | Sequence[int] = -1,
    momentum: float = 0.99,
    epsilon: float = 1e-5,
    dtype: Any = jnp.float32,
    bias: bool = True,
    scale: bool = True,
    bias_init: Any = zeros,
    scale_init: Any = ones,
    axis_name: str | None = None,
    axis_index_groups: Any = None,
    kind: str = "batch_stats",
) -> Array:
    """Normalizes each channel by its mean and variance in the batch.

    Args:
        scope: holds `scale` and `bias`, and `mean` and `var` in the collection `kind`.
        x: inputs of any shape.
        use_running_average: whether to use the averages instead of the batch.
        axis: the channel axis or axes.
        momentum: fraction of the old average that is kept.
        epsilon: what is added to the variance.
        dtype: dtype of the result.
        bias: whether to add a bias.
        scale: whether to multiply with a scale.
        bias_init: initializer of `bias`.
        scale_init: initializer of `scale`.
        axis_name: name of a mapped axis to take mean and variance over as well.
        axis_index_groups: groups of indices of that axis.
        kind: the collection of the averages.

    Returns:
        An array of the shape of `x`.
    """
    wide = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
    listed = axis if isinstance(axis, Sequence) else (axis,)
    channel_axes = tuple(sorted(i % x.ndim for i in listed))
    axes = tuple(i for i in range(x.ndim) if i not in channel_axes)
    shape = tuple(x.shape[i] if i in channel_axes else 1 for i in range(x.ndim))
    stored = tuple(x.shape[i] for i in channel_axes)
    initializing = not scope.has_variable(kind, "mean")
    average_mean = scope.variable(kind, "mean", lambda: jnp.zeros(stored))
    average_var = scope.variable(kind, "var", lambda: jnp.ones(stored))
    if use_running_average:
        mean = average_mean.value.reshape(shape)
        var = average_var.value.reshape(shape)
    else:
        mean, var = _moments(wide, axes)
        if axis_name is not None and not initializing:
            local = mean
            mean = lax.pmean(local, axis_name, axis_index_groups=axis_index_groups)
            spread = var + lax.square(local - mean)
            var = lax.pmean(spread, axis_name, axis_index_groups=axis_index_groups)
        if not initializing:
            for average, new in ((average_mean, mean), (average_var, var)):
                average.value = ema(average.value, new.reshape(stored), momentum)
    y = (wide - mean) * lax.rsqrt(var + epsilon)
    inits = (bias_init if bias else None, scale_init if scale else None)
    return _affine(scope, y, shape, stored, *inits).astype(dtype)
