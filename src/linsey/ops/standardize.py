"""Normalization by moments of the array itself: what all normalization layers share.

    mean, var = moments of x over some axes
    y = (x - mean) * scale / sqrt(var + epsilon) + bias

Batch, layer, group and instance normalization are this with different axes. Nothing
here is more than `moments` followed by `normalize`, each of which has derivative rules
of its own. The functions are compiled once per shape and also traced once, however many
layers of that shape a model has.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from linsey.ops.broadcast import broadcast_all, broadcast_kept, other_axes
from linsey.ops.moments import Moments, Reduction, reduce_moments
from linsey.ops.named_axes import Groups, Names
from linsey.ops.normalize import Layout, result_dtype, scale_and_shift
from linsey.ops.weights import present


class Plan(NamedTuple):
    """How an array is normalized; hashable, for it is static under `jax.jit`.

    Attributes:
        axes: the axes that moments are taken over, ascending.
        features: the axes of scale and bias, ascending.
        dtype: dtype of the result; none means the one that the arrays promote to.
        names: names of the mapped axes that moments are taken over.
        groups: indices of the shards that are combined; none means all.
        centred: whether the mean is subtracted.
    """

    axes: tuple[int, ...]
    features: tuple[int, ...]
    dtype: Any = None
    names: Names = ()
    groups: Groups | None = None
    centred: bool = True


@partial(jax.jit, static_argnums=0)
def standardize(
    plan: Plan,
    x: Array,
    weights: Array | None,
    scale: Array | None,
    bias: Array | None,
    epsilon: Any,
) -> tuple[Array, Moments]:
    """Normalizes an array by its own moments.

    Args:
        plan: over which axes, with which features, to which dtype.
        x: array of any shape.
        weights: mask or weights of the rank of `x`, or none. Absent values are
            normalized too, but those that are not finite, or so large that their square
            is not, give the bias, so that they cannot spoil what is computed next.
        scale: factors, of the shape of the axes `plan.features`, or none.
        bias: offsets of that shape, or none.
        epsilon: what is added to the variance.

    Returns:
        The normalized array, and its moments.

    Example:
        >>> plan = Plan(axes=(1,), features=(1,))
        >>> x = jnp.array([[1.0, 3.0], [10.0, 30.0]])
        >>> y, moments = standardize(plan, x, None, None, None, 0.0)
        >>> y.tolist(), moments.mean.tolist()
        ([[-1.0, 1.0], [-1.0, 1.0]], [2.0, 20.0])
    """
    return _standardize(plan, x, weights, scale, bias, epsilon)


@partial(jax.jit, static_argnums=(0, 1))
def standardize_groups(
    plan: Plan,
    num_groups: int,
    x: Array,
    weights: Array | None,
    scale: Array | None,
    bias: Array | None,
    epsilon: Any,
) -> Array:
    """Normalizes an array whose last axis is split into groups of features.

    Args:
        plan: the axes of `x`, the last one among those reduced.
        num_groups: number of groups, which divides the number of features.
        x: array of shape (..., features).
        weights: mask or weights of the rank of `x`, or none.
        scale: factors of shape (features,), or none.
        bias: offsets of that shape, or none.
        epsilon: what is added to the variance.

    Returns:
        An array of the shape of `x`.

    Example:
        >>> plan = Plan(axes=(1,), features=(1,))
        >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
        >>> standardize_groups(plan, 2, x, None, None, None, 0.0).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """
    last = x.ndim - 1
    plan = plan._replace(axes=(*plan.axes[:-1], last + 1), features=(last, last + 1))
    split = partial(_split_last, num_groups=num_groups)
    weights, scale, bias = jax.tree.map(split, (weights, scale, bias))
    y, _ = _standardize(plan, split(x), weights, scale, bias, epsilon)
    return lax.reshape(y, x.shape)


def _standardize(
    plan: Plan,
    x: Array,
    weights: Array | None,
    scale: Array | None,
    bias: Array | None,
    epsilon: Any,
) -> tuple[Array, Moments]:
    moments = plan_moments(plan, x, weights)
    y = apply_moments(plan, x, weights, moments.mean, moments.var, scale, bias, epsilon)
    return y, moments


def _split_last(values: Array, num_groups: int) -> Array:
    *rest, size = values.shape
    split = (num_groups, size // num_groups) if size > 1 else (1, 1)
    return lax.reshape(values, (*rest, *split))


def plan_moments(plan: Plan, x: Array, weights: Array | None) -> Moments:
    """Takes the moments that a plan normalizes by, in float32 at least.

    Example:
        >>> plan_moments(Plan((0,), (0,)), jnp.arange(3.0), None).mean.tolist()
        1.0
    """
    dtype = x.dtype if plan.dtype is None else plan.dtype
    dtype = jnp.promote_types(dtype, jnp.float32)
    reduction = Reduction(plan.axes, plan.names, plan.groups, plan.centred, dtype)
    return reduce_moments(reduction, x, weights)


def apply_moments(
    plan: Plan,
    x: Array,
    weights: Array | None,
    mean: Array,
    var: Array,
    scale: Array | None,
    bias: Array | None,
    epsilon: Any,
) -> Array:
    """Normalizes an array by given moments; see `standardize` for the arguments.

    Example:
        >>> x, zero, one = jnp.array([3.0, 5.0]), jnp.zeros(()), jnp.ones(())
        >>> apply_moments(Plan((0,), ()), x, None, one, one, None, None, 0.0).tolist()
        [2.0, 4.0]
    """
    inverse = lax.rsqrt(var + epsilon)
    return apply_inverse(plan, x, weights, mean, inverse, scale, bias)


def apply_inverse(
    plan: Plan,
    x: Array,
    weights: Array | None,
    mean: Array,
    inverse: Array,
    scale: Array | None,
    bias: Array | None,
) -> Array:
    """Normalizes an array by given means and inverse deviations.

    Example:
        >>> x, one, two = jnp.array([3.0, 5.0]), jnp.ones(()), jnp.full((), 2.0)
        >>> apply_inverse(Plan((0,), ()), x, None, one, two, None, None).tolist()
        [4.0, 8.0]
    """
    kept = other_axes(plan.axes, x.ndim)
    layout = Layout(kept, plan.features, result_dtype(x, scale, bias, plan.dtype))
    if weights is not None:
        x = _tame(x, weights, mean, inverse, plan.axes, layout.dtype)
    return scale_and_shift(
        layout, x, mean if plan.centred else None, inverse, scale, bias
    )


def _tame(
    x: Array,
    weights: Array,
    mean: Array,
    inverse: Array,
    axes: tuple[int, ...],
    dtype: Any,
) -> Array:
    """Puts the mean where an absent value is not finite once normalized and squared."""
    mean, inverse = (broadcast_kept(v, x.shape, axes) for v in (mean, inverse))
    size = lax.abs(x - mean) * inverse
    small = size <= jnp.sqrt(jnp.finfo(dtype).max.astype(size.dtype))
    kept = lax.bitwise_or(broadcast_all(present(weights), x.shape), small)
    # Where shardings are explicit, both cases must have that of `x`.
    mean = lax.convert_element_type(
        lax.add(lax.full_like(size, 0, mean.dtype), mean), x.dtype
    )
    return lax.select(kept, x, mean)
