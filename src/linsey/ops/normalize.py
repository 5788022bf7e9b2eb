"""Normalization: values brought to mean 0 and variance 1, then scaled and shifted.

    y = (x - mean) * scale / sqrt(var + epsilon) + bias

Mean and variance are *per channel*: they have the shape of the axes that were not
reduced. Scale and bias are per feature. In batch normalization channels and features
are the same axes; in layer normalization they have no axis in common.

`normalize` is given the moments, while `standardize` takes those of the array itself:
batch, layer, group and instance normalization are `standardize` with different axes. It
is `moments` followed by `normalize`, each with its own derivative rules, unless a CPU
kernel computes both at once. In between, values and moments are multiplied by the
*prescale* that `moments` chooses, so that nothing overflows; the result is the same if
epsilon is multiplied by the square of the prescale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial, reduce
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from linsey.ops.arithmetic import times
from linsey.ops.axes import broadcast_all, canonical_axes, other_axes
from linsey.ops.cpu.dispatch import Shape, takes_channels
from linsey.ops.moments import (
    Moments,
    NormSpec,
    ScaledMoments,
    is_counted,
    take_moments,
)
from linsey.ops.prescale import prescale_values
from linsey.ops.sharding import repeat_like, split_like
from linsey.promotion import promote_types, result_type
from linsey.typing import Dtype

if TYPE_CHECKING:
    from jaxtyping import Inexact, Num, Real

Tangent = Array | SymbolicZero | None


def normalize(
    x: Num[ArrayLike, "*shape"],
    mean: Num[ArrayLike, "*channels"],
    var: Real[ArrayLike, "*channels"],
    scale: Num[ArrayLike, "*features"] | None = None,
    bias: Num[ArrayLike, "*features"] | None = None,
    *,
    axis: int | Iterable[int] = -1,
    feature_axis: int | Iterable[int] | None = None,
    epsilon: Real[ArrayLike, ""] = 1e-5,
    dtype: Dtype | None = None,
) -> Inexact[Array, "*shape"]:
    """Normalize values by given moments: `(x - mean) scale / sqrt(var + eps) + bias`.

    Args:
        x: array of any shape.
        mean: means, of the shape of the axes `axis` of `x`.
        var: variances, of the same shape.
        scale: factors, of the shape of the axes `feature_axis`. If `None`, there are
            none.
        bias: offsets of the same shape. If `None`, there are none.
        axis: the axes that mean and variance belong to.
        feature_axis: the axes that scale and bias belong to. If `None`, they are those
            of `axis`.
        epsilon: number added to the variance.
        dtype: dtype of the result. If `None`, the one that `x`, `scale` and `bias`
            promote to. The computation is in float32 at least.

    Returns:
        An array of the shape of `x`.

    Raises:
        ShapeError: `x` has no such axis.

    Example:
        >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
        >>> normalize(x, x.mean(0), x.var(0), epsilon=0.0).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
    """
    x, mean, var = jnp.asarray(x), jnp.asarray(mean), jnp.asarray(var)
    kept = canonical_axes(axis, x.ndim)
    features = kept if feature_axis is None else canonical_axes(feature_axis, x.ndim)
    scale, bias = (None if v is None else jnp.asarray(v) for v in (scale, bias))
    spec = NormSpec(other_axes(kept, x.ndim), features, dtype)
    return normalize_halved(spec, x, mean, var, scale, bias, epsilon)


def result_dtype(
    x: Array, scale: Array | None, bias: Array | None, dtype: Dtype | None = None
) -> jnp.dtype:
    """Choose the dtype of a normalized array: the one given, or the promoted one.

    Example:
        >>> x = jnp.ones(3, jnp.bfloat16)
        >>> str(result_dtype(x, jnp.ones(3), None)), str(result_dtype(x, None, None))
        ('float32', 'bfloat16')
    """
    if dtype is not None:
        return jnp.dtype(dtype)
    promoted = result_type(*(v for v in (x, scale, bias) if v is not None))
    if not jnp.issubdtype(promoted, jnp.inexact):
        promoted = promote_types(promoted, jnp.float32)
    return promoted


def keep_dtype(value: Array, kept: Array) -> Array:
    """Convert a value to the dtype of the one it replaces, but keep imaginary parts.

    Example:
        >>> str(keep_dtype(jnp.ones(2), jnp.ones(2, jnp.bfloat16)).dtype)
        'bfloat16'
    """
    if jnp.iscomplexobj(value) and not jnp.iscomplexobj(kept):
        return value
    return lax.convert_element_type(value, kept.dtype)


def normalize_halved(
    spec: NormSpec,
    x: Array,
    mean: Array,
    var: Array,
    scale: Array | None,
    bias: Array | None,
    epsilon: ArrayLike,
) -> Array:
    """Normalize by given moments, halving `x` and `mean` to keep `x - mean` finite.

    Example:
        >>> spec, large = NormSpec((0,)), jnp.array([3e38, -3e38])
        >>> mean, var = jnp.array(-2e38), jnp.array(1e38)
        >>> y = normalize_halved(spec, large, mean, var, None, None, 0.0)
        >>> print(f"{y[0]:.2e} {y[1]:.2e}")
        5.00e+19 -1.00e+19
    """
    # An eighth, because `scale_and_shift` multiplies by four.
    rstd, part = lax.rsqrt(var + epsilon), lax.full_like(var, 0.125)
    mean, rstd = times(mean, 0.125), times(rstd, 8)
    return scale_and_shift(spec, x, mean, rstd, scale, bias, part)


def reciprocal_deviation(moments: ScaledMoments, epsilon: ArrayLike) -> Array:
    """Compute `1 / sqrt(var + epsilon)` for prescaled values.

    Example:
        >>> one, half = jnp.ones(()), jnp.full((), 0.5)
        >>> reciprocal_deviation(ScaledMoments(one, one, one, half), 12.0).item()
        0.5
    """
    return lax.rsqrt(add_epsilon(moments, epsilon))


def add_epsilon(moments: ScaledMoments, epsilon: ArrayLike) -> Array:
    """Add epsilon to the variance of prescaled values.

    Example:
        >>> one, half = jnp.ones(()), jnp.full((), 0.5)
        >>> add_epsilon(ScaledMoments(one, one, one, half), 12.0).item()
        4.0
    """
    total = moments.var + epsilon * moments.prescale * moments.prescale
    # A prescaled epsilon may underflow, but equal values must not be divided by 0.
    return lax.max(total, jnp.finfo(total.dtype).tiny)


# --- by the moments of the array itself -----------------------------------------------


def standardize(
    spec: NormSpec,
    x: Array,
    weights: Array | None,
    scale: Array | None,
    bias: Array | None,
    epsilon: ArrayLike,
) -> tuple[Array, Moments]:
    """Normalize an array by its own moments.

    Args:
        spec: the reduced axes, the features and the dtype of the result.
        x: array of any shape.
        weights: mask or weights of the rank of `x`, or `None`. Masked values are
            normalized too, but if they or their squares are not finite, the result is
            the bias, so that they cannot spoil later computations.
        scale: factors, of the shape of the axes `spec.features`, or `None`.
        bias: offsets of the same shape, or `None`.
        epsilon: number added to the variance.

    Returns:
        The normalized array, and its moments.

    Example:
        >>> spec = NormSpec(axes=(1,), features=(1,))
        >>> x = jnp.array([[1.0, 3.0], [10.0, 30.0]])
        >>> y, moments = standardize(spec, x, None, None, None, 0.0)
        >>> y.tolist(), moments.mean.tolist()
        ([[-1.0, 1.0], [-1.0, 1.0]], [2.0, 20.0])
    """
    if weights is None and _is_one_operation(spec, x, scale, bias):
        y, mean, var, prescale = standardize_channels(x, scale, bias, epsilon)
        count = lax.full((), math.prod(x.shape[:-1]), var.dtype)
        moments = ScaledMoments(mean, var, count, lax.stop_gradient(prescale))
        return y, moments.of_values()
    moments = take_moments(spec, x, weights)
    rstd, prescale = reciprocal_deviation(moments, epsilon), moments.prescale
    y = apply_moments(spec, x, weights, moments.mean, rstd, scale, bias, prescale)
    return y, moments.of_values()


# Traced once for each shape, however many layers of that shape a model has.
standardize_jit = jax.jit(standardize, static_argnums=0)


def standardize_once(
    spec: NormSpec,
    x: Array,
    scale: Array | None,
    bias: Array | None,
    epsilon: ArrayLike,
) -> Array:
    """Normalize an array once, as initialisation does.

    Compiling a program would take longer than computing with NumPy. See `standardize`
    for the arguments.
    """
    if spec.names or not all(v is None or _is_on_host(v) for v in (x, scale, bias)):
        return standardize_jit(spec, x, None, scale, bias, epsilon)[0]
    shape = [n if i in spec.features else 1 for i, n in enumerate(x.shape)]
    with np.errstate(all="ignore"):  # in float64, squares of finite values are finite
        values = np.asarray(x, np.float64)
        values = values - values.mean(spec.axes, keepdims=True)
        var = np.square(values).mean(spec.axes, keepdims=True)
        values /= np.sqrt(var + epsilon)
        if scale is not None:
            values *= np.asarray(scale).reshape(shape)
        if bias is not None:
            values += np.asarray(bias).reshape(shape)
        return jnp.asarray(values.astype(result_dtype(x, scale, bias, spec.dtype)))


def _is_on_host(x: Array) -> bool:
    """Return whether an array holds concrete float32 values on the CPU."""
    if not isinstance(x, Array) or isinstance(x, jax.core.Tracer):
        return False
    platforms = [device.platform for device in x.devices()]
    return x.dtype == np.float32 and not x.committed and platforms == ["cpu"]


def apply_moments(
    spec: NormSpec,
    x: Array,
    weights: Array | None,
    mean: Array,
    rstd: Array,
    scale: Array | None,
    bias: Array | None,
    prescale: Array | None = None,
) -> Array:
    """Normalize an array by given means and reciprocal standard deviations.

    If there is a prescale, they are those of `x * prescale`.

    Example:
        >>> x, one, two = jnp.array([3.0, 5.0]), jnp.ones(()), jnp.full((), 2.0)
        >>> apply_moments(NormSpec((0,)), x, None, one, two, None, None).tolist()
        [4.0, 8.0]
    """
    if weights is not None:
        dtype = result_dtype(x, scale, bias, spec.dtype)
        x = _replace_masked(spec, x, weights, mean, rstd, dtype, prescale)
    used = mean if spec.centred else None
    return scale_and_shift(spec, x, used, rstd, scale, bias, prescale)


def _replace_masked(
    spec: NormSpec,
    x: Array,
    weights: Array,
    mean: Array,
    rstd: Array,
    dtype: jnp.dtype,
    prescale: Array | None,
) -> Array:
    """Replace masked values by the mean if their normalized squares are not finite."""
    scaled, of_values = x, mean
    if prescale is not None:
        wide = lax.convert_element_type(x, promote_types(x.dtype, mean.dtype))
        scaled = prescale_values(wide, prescale, spec.axes)
        of_values = mean / prescale.astype(mean.dtype)
    kept = other_axes(spec.axes, x.ndim)
    mean, rstd, of_values = (repeat_like(v, kept, x) for v in (mean, rstd, of_values))
    size = lax.abs(scaled - mean) * rstd
    small = size <= jnp.sqrt(jnp.finfo(dtype).max.astype(size.dtype))
    usable = lax.bitwise_or(broadcast_all(is_counted(weights), x.shape), small)
    # If shardings are explicit, both branches must have that of `x`.
    mean = lax.convert_element_type(
        lax.add(lax.full_like(size, 0, mean.dtype), of_values), x.dtype
    )
    return lax.select(split_like(usable, x), x, mean)


# --- the formula ----------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def scale_and_shift(
    spec: NormSpec,
    x: Array,
    mean: Array | None,
    rstd: Array,
    scale: Array | None,
    bias: Array | None,
    prescale: Array | None = None,
) -> Array:
    """Compute `(x * prescale - mean) * rstd * scale + bias` in float32 at least.

    Args:
        spec: which axes of `x` the other arguments belong to.
        x: array.
        mean: means. If `None`, they are zero.
        rstd: reciprocal standard deviations, of the shape of the axes not in
            `spec.axes`.
        scale: factors, of the shape of the axes `spec.features`, or `None`.
        bias: offsets of the same shape, or `None`.
        prescale: real numbers of the shape of `rstd`, constants in derivatives. If
            `None`, they are 1.

    Returns:
        An array of the shape of `x` and of the dtype `result_dtype`.

    Example:
        >>> spec, one, two = NormSpec((), (0,)), jnp.ones(3), jnp.full(3, 2.0)
        >>> scale_and_shift(spec, jnp.full(3, 5.0), one, two, two, one).tolist()
        [17.0, 17.0, 17.0]
    """
    result = result_dtype(x, scale, bias, spec.dtype)
    dtype = _working_dtype(x, mean, rstd, scale, bias)
    x, rstd = (lax.convert_element_type(v, dtype) for v in (x, rstd))
    mean, scale, bias = (_convert(v, dtype) for v in (mean, scale, bias))
    kept, joint = _kept_and_joint(spec, x)
    if prescale is not None:
        # Four times as large, for the reason given in `moments._sum_values`.
        prescale = times(lax.convert_element_type(prescale, dtype), 4)
        x, rstd = prescale_values(x, prescale, spec.axes), times(rstd, 0.25)
        mean = None if mean is None else times(mean, 4)
    if mean is not None:
        x = lax.sub(x, repeat_like(mean, kept, x))
    factor = repeat_like(rstd, kept, x, joint)
    if scale is not None:
        factor = lax.mul(factor, repeat_like(scale, spec.features, x, joint))
    y = lax.mul(x, repeat_like(factor, joint, x))
    if bias is not None:
        y = lax.add(y, repeat_like(bias, spec.features, x))
    return lax.convert_element_type(y, result)


def _scale_and_shift_jvp(
    spec: NormSpec,
    primals: tuple[Array, Array | None, Array, *tuple[Array | None, ...]],
    tangents: tuple[Tangent, ...],
) -> tuple[Array, Array]:
    y = scale_and_shift(spec, *primals)
    given = tuple(None if isinstance(t, SymbolicZero) else t for t in tangents[:5])
    if all(t is None for t in given):
        return y, lax.full_like(y, 0)
    x, mean, rstd, scale, _, prescale = primals
    return y, _tangent(spec, y.dtype, (x, mean, rstd, scale), given, prescale)


scale_and_shift.defjvp(_scale_and_shift_jvp, symbolic_zeros=True)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=(0, 1))
def _tangent(
    spec: NormSpec,
    result: jnp.dtype,
    primals: tuple[Array, Array | None, Array, Array | None],
    tangents: tuple[Array | None, ...],
    prescale: Array | None,
) -> Array:
    """Map tangents of the arguments to that of the result, linearly.

        dy = dx factor + offset + (x - mean) slope,    factor = rstd scale,
        offset = dbias - factor dmean,    slope = drstd scale + rstd dscale

    where `x` and `dx` are prescaled, `dx` through its factor.
    In reverse mode `offset` and `slope` become the two sums that all gradients share,
    over `ct` and over `ct (x - mean)`. Differentiating the formula term by term would
    take twice as many. This is a checkpoint, so that `x` is kept and not `x - mean`.
    """
    dtype = _working_dtype(*primals)
    kept, joint = _kept_and_joint(spec, primals[0])
    x, dx = lax.convert_element_type(primals[0], dtype), _convert(tangents[0], dtype)
    per_channel = partial(_align, dtype=dtype, axes=kept, like=x, onto=joint)
    per_feature = partial(per_channel, axes=spec.features)
    rstd = per_channel(primals[2])
    mean, dmean, drstd = (
        None if v is None else per_channel(v) for v in (primals[1], *tangents[1:3])
    )
    scale, dscale, dbias = (
        None if v is None else per_feature(v) for v in (primals[3], *tangents[3:])
    )
    factor = rstd if scale is None else lax.mul(rstd, scale)
    offset, slope = dbias, drstd
    if dmean is not None:
        offset = _sum(offset, lax.neg(lax.mul(factor, dmean)))
    if drstd is not None and scale is not None:
        slope = lax.mul(drstd, scale)
    if dscale is not None:
        slope = _sum(slope, lax.mul(rstd, dscale))
    terms = []
    if dtype == jnp.float32 and mean is not None and _is_per_channel(spec, primals[0]):
        from linsey.ops.cpu.channel_kernels import channel_spread

        zero = lax.full_like(mean, 0)
        first, second = (zero if v is None else v for v in (offset, slope))
        terms, slope = [channel_spread(first, second, x, mean, prescale)], None
    elif offset is not None:
        terms = [repeat_like(offset, joint, x)]
    if dx is not None:
        if prescale is not None:
            factor = lax.mul(factor, per_channel(prescale))
        terms.append(lax.mul(dx, repeat_like(factor, joint, x)))
    if slope is not None:
        # Doubled, and with `x - mean` as a sum, because of `moments._sum_values`.
        if prescale is not None:
            double = lax.convert_element_type(lax.add(prescale, prescale), dtype)
            x, slope = prescale_values(x, double, spec.axes), times(slope, 0.5)
            mean = None if mean is None else times(mean, 2)
        if mean is not None:
            x = lax.add(x, repeat_like(lax.neg(mean), joint, x))
        terms.append(lax.mul(x, repeat_like(slope, joint, x)))
    return lax.convert_element_type(reduce(lax.add, terms), result)


def _kept_and_joint(spec: NormSpec, x: Array) -> tuple[Shape, Shape]:
    """List the axes of the moments, and their union with those of scale and bias."""
    kept = other_axes(spec.axes, x.ndim)
    return kept, tuple(sorted({*kept, *spec.features}))


def _working_dtype(*values: Array | None) -> jnp.dtype:
    dtypes = (value.dtype for value in values if value is not None)
    return reduce(promote_types, dtypes, jnp.dtype("float32"))


def _convert(value: Array | None, dtype: jnp.dtype) -> Array | None:
    return None if value is None else lax.convert_element_type(value, dtype)


def _align(
    values: Array, dtype: jnp.dtype, axes: Shape, like: Array, onto: Shape
) -> Array:
    return repeat_like(lax.convert_element_type(values, dtype), axes, like, onto)


def _sum(a: Array | None, b: Array) -> Array:
    return b if a is None else lax.add(a, b)


# --- on a CPU: moments and formula as one operation -----------------------------------


def _is_per_channel(spec: NormSpec, x: Array) -> bool:
    """Return whether CPU kernels can handle the channels, on the last axis."""
    last = x.ndim - 1
    return spec.features in ((), (last,)) and takes_channels(x, spec.axes)


def _is_one_operation(
    spec: NormSpec, x: Array, scale: Array | None, bias: Array | None
) -> bool:
    """Return whether `standardize_channels` can do the work of `standardize`."""
    return spec.centred and is_single(spec, x, scale, bias) and _is_per_channel(spec, x)


def is_single(
    spec: NormSpec, x: Array, scale: Array | None, bias: Array | None
) -> bool:
    """Return whether all is in float32 and no named axis is reduced.

    Example:
        >>> is_single(NormSpec((0,)), jnp.ones(2), None, jnp.ones(2, jnp.bfloat16))
        False
    """
    return (
        not spec.names
        and result_dtype(x, scale, bias, spec.dtype) == jnp.float32
        and all(v is None or v.dtype == jnp.float32 for v in (scale, bias))
    )


@jax.custom_jvp
def standardize_channels(
    x: Array, scale: Array | None, bias: Array | None, epsilon: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    """Normalize the channels of an array by their own moments, with CPU kernels.

    The gradients of moments and of normalized values are usually two operations, which
    read and write large arrays one after the other. Here they are a single one.

    Args:
        x: array of shape (..., channels), float32.
        scale: factors of shape (channels,), or `None`.
        bias: offsets of the same shape, or `None`.
        epsilon: number added to the variance.

    Returns:
        The normalized array, the mean and variance of each channel of `x * prescale`,
        and the prescale.

    Example:
        >>> x, bias = jnp.array([[1.0], [5.0]]), jnp.ones(1)
        >>> y, mean, var, prescale = standardize_channels(x, None, bias, 0.0)
        >>> mean, var = mean / prescale, var / prescale**2
        >>> y.ravel().tolist(), mean.item(), var.item()
        ([0.0, 2.0], 3.0, 4.0)
    """
    spec = NormSpec(tuple(range(x.ndim - 1)), (x.ndim - 1,), x.dtype)
    moments = take_moments(spec, x, None)
    mean, var, _, prescale = moments
    rstd = reciprocal_deviation(moments, epsilon)
    y = scale_and_shift(spec, x, mean, rstd, scale, bias, prescale)
    return y, mean, var, prescale


def _standardize_channels_jvp(
    primals: tuple[Array, Array | None, Array | None, ArrayLike],
    tangents: tuple[Tangent, ...],
) -> tuple[tuple[Array, Array, Array, Array], tuple[Array, Array, Array, Array]]:
    from linsey.ops.cpu.channel_kernels import channel_spread, standardized_tangent

    x, scale, _, epsilon = primals
    dx, dscale, dbias, depsilon = (
        None if isinstance(t, SymbolicZero) else t for t in tangents
    )
    y, mean, var, prescale = standardize_channels(*primals)
    prescale = lax.stop_gradient(prescale)
    rstd = reciprocal_deviation(ScaledMoments(mean, var, var, prescale), epsilon)
    factor = rstd if scale is None else lax.mul(rstd, scale)
    zero = lax.full_like(mean, 0)
    slope = zero if dscale is None else lax.mul(rstd, dscale)
    if depsilon is not None:
        depsilon = depsilon * prescale * prescale
        slope = slope - depsilon / 2 * factor * rstd * rstd
    offset = zero if dbias is None else dbias
    if dx is None:
        dy = channel_spread(offset, slope, x, mean, prescale)
        return (y, mean, var, prescale), (dy, zero, zero, zero)
    values = x, mean, rstd, lax.mul(factor, prescale), prescale
    dy, dmean, dsquare = standardized_tangent(dx, offset, slope, *values)
    dmean, dvar = lax.mul(dmean, prescale), lax.mul(dsquare + dsquare, prescale)
    return (y, mean, var, prescale), (dy, dmean, dvar, zero)


standardize_channels.defjvp(_standardize_channels_jvp, symbolic_zeros=True)
