"""Normalization of each channel by its own moments, with derivatives as one operation.

The same values as `standardize`, of which this is the common case on a CPU: channels
last, no mask, one device. There the gradients of moments and of normalized values are
two operations, which read and write large arrays one after the other.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from linsey.ops.cpu.channel_kernels import channel_spread, standardized_tangent
from linsey.ops.normalize import Layout, scale_and_shift
from linsey.ops.standardize import Plan, plan_moments


@jax.custom_jvp
def standardize_channels(
    x: Array, scale: Array | None, bias: Array | None, epsilon: Any
) -> tuple[Array, Array, Array]:
    """Normalizes the channels of an array by their own moments.

    Args:
        x: array of shape (..., channels), float32.
        scale: factors of shape (channels,), or none.
        bias: offsets of that shape, or none.
        epsilon: what is added to the variance.

    Returns:
        The normalized array, and mean and variance of each channel.

    Example:
        >>> x, bias = jax.numpy.array([[1.0], [5.0]]), jax.numpy.ones(1)
        >>> y, mean, var = standardize_channels(x, None, bias, 0.0)
        >>> y.ravel().tolist(), mean.item(), var.item()
        ([0.0, 2.0], 3.0, 4.0)
    """
    last, others = x.ndim - 1, tuple(range(x.ndim - 1))
    mean, var, _ = plan_moments(Plan(others, (last,)), x, None)
    layout = Layout((last,), (last,), x.dtype)
    inverse = lax.rsqrt(var + epsilon)
    return scale_and_shift(layout, x, mean, inverse, scale, bias), mean, var


def _tangents(primals: Any, tangents: Any) -> tuple[Any, Any]:
    x, scale, _, epsilon = primals
    dx, dscale, dbias, depsilon = (
        None if isinstance(t, SymbolicZero) else t for t in tangents
    )
    y, mean, var = standardize_channels(*primals)
    inverse = lax.rsqrt(var + epsilon)
    gain = inverse if scale is None else lax.mul(inverse, scale)
    zero = lax.full_like(mean, 0)
    slope = zero if dscale is None else lax.mul(inverse, dscale)
    if depsilon is not None:
        slope = slope - depsilon / 2 * gain * inverse * inverse
    offset = zero if dbias is None else dbias
    if dx is None:
        dy = channel_spread(offset, slope, x, mean)
        return (y, mean, var), (dy, zero, zero)
    dy, dmean, dsquare = standardized_tangent(dx, offset, slope, x, mean, inverse, gain)
    return (y, mean, var), (dy, dmean, lax.add(dsquare, dsquare))


standardize_channels.defjvp(_tangents, symbolic_zeros=True)
