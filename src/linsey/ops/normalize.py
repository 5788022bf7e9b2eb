"""Values brought to given mean and variance, then scaled and shifted.

    y = (x - mean) * scale / sqrt(var + epsilon) + bias

Mean and variance are *per channel*: they have the shape of the axes that were kept
when they were taken. Scale and bias are per feature. For batch normalization these are
the same axes, for layer normalization they have none in common.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from linsey.ops.broadcast import canonical_axes, other_axes
from linsey.ops.cpu.dispatch import takes_channels


class Layout(NamedTuple):
    """Which axes of an array values belong to; hashable, for it is static.

    Attributes:
        kept: the axes of mean and variance, ascending.
        features: the axes of scale and bias, ascending.
        dtype: the dtype of the result.
    """

    kept: tuple[int, ...]
    features: tuple[int, ...]
    dtype: Any

    @property
    def joint(self) -> tuple[int, ...]:
        """The axes of either."""
        return tuple(sorted({*self.kept, *self.features}))


def normalize(
    x: Any,
    mean: Any,
    var: Any,
    scale: Any = None,
    bias: Any = None,
    *,
    axis: int | Iterable[int] = -1,
    feature_axis: int | Iterable[int] | None = None,
    epsilon: Any = 1e-5,
    dtype: Any = None,
) -> Array:
    """Normalizes values by given moments: `(x - mean) scale / sqrt(var + eps) + bias`.

    Args:
        x: array of any shape.
        mean: means, of the shape of the axes `axis` of `x`.
        var: variances, of the same shape.
        scale: factors, of the shape of the axes `feature_axis`, or none.
        bias: offsets of that shape, or none.
        axis: the axes that mean and variance belong to.
        feature_axis: the axes that scale and bias belong to; none means `axis`.
        epsilon: what is added to the variance.
        dtype: dtype of the result; none means the one that `x`, `scale` and `bias`
            promote to. The computation is in float32 at least.

    Returns:
        An array of the shape of `x`.

    Example:
        >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
        >>> normalize(x, x.mean(0), x.var(0), epsilon=0.0).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
    """
    x, mean, var = jnp.asarray(x), jnp.asarray(mean), jnp.asarray(var)
    kept = canonical_axes(axis, x.ndim)
    features = kept if feature_axis is None else canonical_axes(feature_axis, x.ndim)
    scale, bias = (None if v is None else jnp.asarray(v) for v in (scale, bias))
    layout = Layout(kept, features, result_dtype(x, scale, bias, dtype))
    return scale_and_shift(layout, x, mean, lax.rsqrt(var + epsilon), scale, bias)


def result_dtype(
    x: Array, scale: Array | None, bias: Array | None, dtype: Any = None
) -> Any:
    """Chooses the dtype of a normalized array: the one given, or the promoted one.

    Example:
        >>> x = jnp.ones(3, jnp.bfloat16)
        >>> str(result_dtype(x, jnp.ones(3), None)), str(result_dtype(x, None, None))
        ('float32', 'bfloat16')
    """
    if dtype is not None:
        return jnp.dtype(dtype)
    dtype = jnp.result_type(*(v for v in (x, scale, bias) if v is not None))
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.promote_types(dtype, jnp.float32)
    return dtype


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def scale_and_shift(
    layout: Layout,
    x: Array,
    mean: Array | None,
    inverse: Array,
    scale: Array | None,
    bias: Array | None,
) -> Array:
    """Computes `(x - mean) * inverse * scale + bias` in float32 at least.

    Args:
        layout: which axes of `x` the other arguments belong to.
        x: array.
        mean: means, or none for zero.
        inverse: inverse standard deviations, of the shape of the axes `layout.kept`.
        scale: factors, of the shape of the axes `layout.features`, or none.
        bias: offsets of that shape, or none.

    Returns:
        An array of the shape of `x` and the dtype `layout.dtype`.

    Example:
        >>> layout = Layout((0,), (0,), jnp.dtype("float32"))
        >>> one, two = jnp.ones(3), jnp.full(3, 2.0)
        >>> scale_and_shift(layout, jnp.full(3, 5.0), one, two, two, one).tolist()
        [17.0, 17.0, 17.0]
    """
    dtype = _working_dtype(x, mean, inverse, scale, bias)
    x, mean, inverse, scale, bias = (
        _convert(value, dtype) for value in (x, mean, inverse, scale, bias)
    )
    joint, shape = layout.joint, x.shape
    if mean is not None:
        x = lax.sub(x, _spread(mean, layout.kept, shape))
    gain = _spread(inverse, layout.kept, shape, joint)
    if scale is not None:
        gain = lax.mul(gain, _spread(scale, layout.features, shape, joint))
    y = lax.mul(x, _spread(gain, joint, shape))
    if bias is not None:
        y = lax.add(y, _spread(bias, layout.features, shape))
    return lax.convert_element_type(y, layout.dtype)


def _scale_and_shift_jvp(
    layout: Layout, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    y = scale_and_shift(layout, *primals)
    tangents = tuple(None if isinstance(t, SymbolicZero) else t for t in tangents)
    if all(t is None for t in tangents):
        return y, lax.full_like(y, 0)
    return y, _tangent(layout, primals[:-1], tangents)


scale_and_shift.defjvp(_scale_and_shift_jvp, symbolic_zeros=True)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=0)
def _tangent(
    layout: Layout, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> Array:
    """Maps tangents of the arguments to that of the result, linearly.

        dy = dx gain + offset + (x - mean) slope,    gain = inverse scale,
        offset = dbias - gain dmean,    slope = dinverse scale + inverse dscale

    In reverse mode `offset` and `slope` become the two sums that all the gradients
    share, over `ct` and over `ct (x - mean)`; differentiated term by term, the formula
    needs twice as many. A checkpoint, so that `x` is kept and not `x - mean`.
    """
    dtype = _working_dtype(*primals)
    joint, shape = layout.joint, primals[0].shape
    others = other_axes(joint, len(shape))
    by_channel = layout.kept == joint and takes_channels(primals[0], others)
    x, dx = (_convert(v, dtype) for v in (primals[0], tangents[0]))
    mean, inverse, dmean, dinverse = (
        _spread(_convert(v, dtype), layout.kept, shape, joint)
        for v in (*primals[1:3], *tangents[1:3])
    )
    scale, dscale, dbias = (
        _spread(_convert(v, dtype), layout.features, shape, joint)
        for v in (primals[3], *tangents[3:])
    )
    gain = inverse if scale is None else lax.mul(inverse, scale)
    offset, slope = dbias, dinverse
    if dmean is not None:
        offset = _sum(offset, lax.neg(lax.mul(gain, dmean)))
    if dinverse is not None and scale is not None:
        slope = lax.mul(dinverse, scale)
    if dscale is not None:
        slope = _sum(slope, lax.mul(inverse, dscale))
    if by_channel and mean is not None and dtype == jnp.float32:
        from linsey.ops.cpu.channel_kernels import channel_spread

        zero = lax.full_like(mean, 0)
        first, second = (zero if v is None else v for v in (offset, slope))
        dy, slope = channel_spread(first, second, x, mean), None
    else:
        dy = _spread(offset, joint, shape)
    if dx is not None:
        dy = _sum(dy, lax.mul(dx, _spread(gain, joint, shape)))
    if slope is not None:
        # `x - mean` as a sum, for a reason given in `moments`.
        if mean is not None:
            x = lax.add(x, _spread(lax.neg(mean), joint, shape))
        dy = _sum(dy, lax.mul(x, _spread(slope, joint, shape)))
    return lax.convert_element_type(dy, layout.dtype)


def _working_dtype(*values: Array | None) -> Any:
    dtypes = (value.dtype for value in values if value is not None)
    return reduce(jnp.promote_types, dtypes, jnp.float32)


def _convert(value: Any, dtype: Any) -> Any:
    return None if value is None else lax.convert_element_type(value, dtype)


def _sum(a: Array | None, b: Array) -> Array:
    return b if a is None else lax.add(a, b)


def _spread(
    values: Any,
    axes: tuple[int, ...],
    shape: tuple[int, ...],
    onto: tuple[int, ...] | None = None,
) -> Any:
    """Repeats values along the axes `onto` of `shape` (all of them) not in `axes`."""
    if onto is None:
        onto = tuple(range(len(shape)))
    if values is None or axes == onto:
        return values
    places = [onto.index(axis) for axis in axes]
    return lax.broadcast_in_dim(values, [shape[axis] for axis in onto], places)
