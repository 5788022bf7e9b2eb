"""Normalization as functions of scopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import ones, zeros

from linsey.core.scope import Scope
from linsey.ops.axes import as_groups, as_names, canonical_axes, other_axes
from linsey.ops.batch_norm import UpdateRule, evaluate_batch_norm, train_batch_norm
from linsey.ops.moments import NormSpec
from linsey.ops.normalize import standardize_groups, standardize_jit

__all__ = ["batch_norm", "group_norm", "layer_norm"]


def _affine(scope: Scope, stored: Any, shape: Any, *inits: Any) -> list[Any]:
    """Declares `scale` and `bias` where there are initializers, and shapes them."""
    return [
        scope.param(name, init, stored).reshape(shape) if init else None
        for name, init in zip(("scale", "bias"), inits, strict=True)
    ]


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
    last, shape = (x.ndim - 1,), x.shape[-1:]
    affine = _affine(scope, shape, shape, scale and scale_init, bias and bias_init)
    return standardize_jit(NormSpec(last, last, dtype), x, None, *affine, epsilon)[0]


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
    last = x.ndim - 1
    stored = (1,) * last + (channels,)
    affine = _affine(
        scope, stored, (channels,), scale and scale_init, bias and bias_init
    )
    spec = NormSpec((*range(1, last), last), (last,), dtype)
    return standardize_groups(spec, groups, x, None, *affine, epsilon)


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
    channels = canonical_axes(axis, x.ndim)
    spec = NormSpec(other_axes(channels, x.ndim), channels, dtype)
    shape = tuple(x.shape[i] for i in channels)
    initializing = not scope.has_variable(kind, "mean")
    mean = scope.variable(kind, "mean", jnp.zeros, shape)
    var = scope.variable(kind, "var", jnp.ones, shape)
    running = mean.value, var.value
    affine = _affine(scope, shape, shape, scale and scale_init, bias and bias_init)
    if use_running_average:
        return evaluate_batch_norm(spec, x, *affine, epsilon, running)
    if initializing:
        return standardize_jit(spec, x, None, *affine, epsilon)[0]
    spec = spec._replace(names=as_names(axis_name), groups=as_groups(axis_index_groups))
    rule, decay = UpdateRule(propagate=True), (momentum, 1 - momentum)
    y, (mean.value, var.value) = train_batch_norm(
        spec, rule, x, None, *affine, epsilon, running, decay
    )
    return y
