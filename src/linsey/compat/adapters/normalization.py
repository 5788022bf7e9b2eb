"""Private functions of `flax.linen.normalization`, for layers built from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from linsey.linen.dtypes import canonicalize_dtype
from linsey.linen.module import Module
from linsey.ops.axes import AxisNames
from linsey.ops.axes import canonical_axes as _canonical_axes
from linsey.ops.moments import moments
from linsey.promotion import promotes
from linsey.typing import Dtype

Axes = int | Sequence[int]


def canonicalize_axes(rank: int, axes: int | Iterable[int]) -> tuple[int, ...]:
    """Count axes from the front, without duplicates, in ascending order."""
    return _canonical_axes(axes, rank)


def abs_sq(x: Array) -> Array:
    """Square the absolute value."""
    if jnp.iscomplexobj(x):
        return lax.square(x.real) + lax.square(x.imag)
    return lax.square(x)


def l2_normalize(x: Array, axis: Axes | None = None, eps: float = 1e-12) -> Array:
    """Divide an array by its Euclidean norm along an axis, or over all axes."""
    return x * lax.rsqrt(jnp.sum(x * x, axis=axis, keepdims=True) + eps)


def compute_stats(
    x: ArrayLike,
    axes: Axes,
    dtype: Dtype | None,
    axis_name: AxisNames | None = None,
    axis_index_groups: Iterable[Sequence[int]] | None = None,
    use_mean: bool = True,
    use_fast_variance: bool = True,
    mask: ArrayLike | None = None,
    force_float32_reductions: bool = True,
) -> tuple[Array, Array]:
    """Return the mean and variance; without `use_mean`, zeros and the mean square.

    linsey's formula is accurate in a single pass, so `use_fast_variance` has no effect.
    """
    x = jnp.asarray(x)
    kept = dtype = x.dtype if dtype is None else jnp.dtype(dtype)
    if force_float32_reductions:
        kept = jnp.promote_types(dtype, jnp.float32)
    x = x.astype(jnp.promote_types(dtype, jnp.float32))
    mean, var, _ = moments(
        x,
        axes,
        mask,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        centred=use_mean,
    )
    return mean.astype(kept), var.astype(jnp.finfo(kept).dtype)


@promotes
def normalize(
    mdl: Module,
    x: ArrayLike,
    mean: Array,
    var: Array,
    reduction_axes: Axes,
    feature_axes: Axes,
    dtype: Dtype | None,
    param_dtype: Dtype,
    epsilon: float,
    use_bias: bool,
    use_scale: bool,
    bias_init: Callable[..., Array],
    scale_init: Callable[..., Array],
    force_float32_reductions: bool = True,
) -> Array:
    """Normalize by given moments, then apply the scale and bias parameters of `mdl`."""
    x = jnp.asarray(x)
    reduced = _canonical_axes(reduction_axes, x.ndim)
    features = _canonical_axes(feature_axes, x.ndim)
    shape = tuple(x.shape[axis] for axis in features)
    aligned = [x.shape[axis] if axis in features else 1 for axis in range(x.ndim)]
    mean, var = (jnp.expand_dims(value, reduced) for value in (mean, var))
    y, args, factor = x - mean, [x], lax.rsqrt(var + epsilon)
    if use_scale:
        scale = mdl.param("scale", scale_init, shape, param_dtype)
        args.append(scale.reshape(aligned))
        factor = factor * args[-1]
    y = y * factor
    if use_bias:
        bias = mdl.param("bias", bias_init, shape, param_dtype)
        args.append(bias.reshape(aligned))
        y = y + args[-1]
    return jax.lax.convert_element_type(y, canonicalize_dtype(*args, dtype=dtype))
