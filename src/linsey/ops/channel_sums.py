"""Two sums for each channel of large arrays on a CPU, in one reading of them.

XLA reads an array once for each sum. What batch normalization needs, forward and
backward, are always two of them; here each pair is one operation. Channels are the last
axis, and all others are summed over.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from jax import Array, lax
from jax.interpreters import ad

from linsey.errors.layers import OperandShapeError
from linsey.ops.compiled import channel_lanes
from linsey.ops.primitives import call_kernel, define

LARGE_OUTPUT = 2**20  # entries; where pages of memory cost more than XLA's loop saves


def _sum(values: Array) -> Array:
    return lax.reduce_sum(values, tuple(range(values.ndim - 1)))


def _spread(values: Array, shape: tuple[int, ...]) -> Array:
    return lax.broadcast_in_dim(values, shape, (len(shape) - 1,))


def _shapes(arrays: list[Any], per_channel: list[Any], extra: int = 0) -> list[Any]:
    """Checks that arrays fit each other; returns their shape and that of channels."""
    shape, channels = arrays[0].shape, arrays[0].shape[-1:]
    found = [value.shape for value in (*arrays, *per_channel)]
    if found != [shape] * len(arrays) + [channels] * len(per_channel):
        rule = f"{len(arrays)} of one shape, and {len(per_channel)} of its last axis"
        raise OperandShapeError("sums per channel", rule, *found)
    return [shape, *[channels] * (1 + extra)]


def _call(target: str, shape: tuple[int, ...], x: Array, *others: Array) -> Array:
    """Calls a kernel for arrays of the shape of `x`."""
    plan = (math.prod(x.shape[:-1]), x.shape[-1], channel_lanes(x.shape[-1]))
    result = jax.ShapeDtypeStruct(shape, x.dtype)
    return call_kernel(target, [result], (x, *others), plan)[0]


def _call_sums(target: str, x: Array, *others: Array) -> list[Array]:
    sums = _call(target, (2, x.shape[-1]), x, *others)
    return [sums[0], sums[1]]


# --- moments ------------------------------------------------------------------------


def _moments(x: Array, origin: Array) -> list[Array]:
    shifted = lax.sub(x, _spread(origin, x.shape))
    return [_sum(shifted), _sum(lax.mul(shifted, shifted))]


def _moments_kernel(x: Array, origin: Array) -> list[Array]:
    if channel_lanes(x.shape[-1]) is None:
        return _moments(x, origin)
    return _call_sums("linsey_channel_moments", x, origin)


def _not_linear(*_: Any) -> Any:
    raise NotImplementedError("sums of squares are not linear")


_bind_moments = define(
    "channel_moments",
    _moments,
    _moments_kernel,
    "channels",
    lambda x, origin: _shapes([x], [origin])[1:] * 2,
    _not_linear,
)


def channel_moments(x: Array, origin: Array) -> tuple[Array, Array]:
    """Sums `x - origin` and its square.

    Args:
        x: array of shape (..., channels), float32.
        origin: a value for each channel.

    Returns:
        Two sums for each channel.

    Raises:
        OperandShapeError: the arrays do not fit each other.

    Example:
        >>> x = jax.numpy.array([[1.0], [4.0]])
        >>> first, second = channel_moments(x, jax.numpy.ones(1))
        >>> first.item(), second.item()
        (3.0, 9.0)
    """
    first, second = _bind_moments(x, origin)
    return first, second


# --- products, and their transpose --------------------------------------------------


def _products(a: Array, x: Array, origin: Array) -> list[Array]:
    shifted = lax.sub(x, _spread(origin, x.shape))
    return [_sum(a), _sum(lax.mul(a, shifted))]


def _products_kernel(a: Array, x: Array, origin: Array) -> list[Array]:
    if channel_lanes(x.shape[-1]) is None:
        return _products(a, x, origin)
    return _call_sums("linsey_channel_products", x, origin, a)


def _transpose_products(cotangents: Any, a: Any, x: Array, origin: Array) -> Any:
    first, second = map(ad.instantiate_zeros, cotangents)
    return [channel_spread(first, second, x, origin), None, None]


def _spreads(first: Array, second: Array, x: Array, origin: Array) -> list[Array]:
    # `x - origin` as a sum, for a reason given in `moments`.
    shifted = lax.add(x, _spread(lax.neg(origin), x.shape))
    scaled = lax.mul(shifted, _spread(second, x.shape))
    return [lax.add(scaled, _spread(first, x.shape))]


def _transpose_spreads(
    cotangents: Any, first: Any, second: Any, x: Array, origin: Array
) -> Any:
    sums = channel_products(ad.instantiate_zeros(cotangents[0]), x, origin)
    linear = map(ad.is_undefined_primal, (first, second))
    kept = [s if wanted else None for s, wanted in zip(sums, linear, strict=True)]
    return [*kept, None, None]


_bind_products = define(
    "channel_products",
    _products,
    _products_kernel,
    "channels",
    lambda a, x, origin: _shapes([a, x], [origin])[1:] * 2,
    _transpose_products,
    multilinear=(0,),
)
_bind_spread = define(
    "channel_spread",
    _spreads,
    _spreads,  # XLA merges it with what uses it
    "channels",
    lambda first, second, x, origin: _shapes([x], [first, second, origin])[:1],
    _transpose_spreads,
)


def channel_products(a: Array, x: Array, origin: Array) -> tuple[Array, Array]:
    """Sums `a` and `a * (x - origin)`; linear in `a`.

    Args:
        a: array of shape (..., channels), float32.
        x: array of that shape.
        origin: a value for each channel.

    Returns:
        Two sums for each channel.

    Raises:
        OperandShapeError: the arrays do not fit each other.

    Example:
        >>> a, x = jax.numpy.array([[1.0], [2.0]]), jax.numpy.array([[3.0], [5.0]])
        >>> first, second = channel_products(a, x, jax.numpy.ones(1))
        >>> first.item(), second.item()
        (3.0, 10.0)
    """
    first, second = _bind_products(a, x, origin)
    return first, second


def channel_spread(first: Array, second: Array, x: Array, origin: Array) -> Array:
    """Computes `first + second * (x - origin)`, the transpose of `channel_products`.

    Args:
        first: a value for each channel.
        second: a value for each channel.
        x: array of shape (..., channels), float32.
        origin: a value for each channel.

    Returns:
        An array of the shape of `x`.

    Example:
        >>> one, x = jax.numpy.ones(1), jax.numpy.array([[3.0], [5.0]])
        >>> channel_spread(one, 2 * one, x, one).ravel().tolist()
        [5.0, 9.0]
    """
    return _bind_spread(first, second, x, origin)[0]


# --- the tangent of standardized values ----------------------------------------------


def _tangent(products: Any, combine: Any) -> Any:
    def tangent(
        dx: Array,
        offset: Array,
        slope: Array,
        x: Array,
        mean: Array,
        inverse: Array,
        gain: Array,
    ) -> list[Array]:
        count = lax.full_like(mean, math.prod(x.shape[:-1]))
        dmean, dsquare = (lax.div(total, count) for total in products(dx, x, mean))
        first = lax.sub(offset, lax.mul(gain, dmean))
        dslope = lax.mul(lax.mul(gain, lax.mul(inverse, inverse)), dsquare)
        (dy,) = combine(dx, x, mean, gain, first, lax.sub(slope, dslope))
        return [dy, dmean, dsquare]

    return tangent


def _combine(
    a: Array, x: Array, origin: Array, gain: Array, first: Array, second: Array
) -> list[Array]:
    (y,) = _spreads(first, second, x, origin)
    return [lax.add(y, lax.mul(a, _spread(gain, x.shape)))]


def _combine_kernel(a: Array, x: Array, *per_channel: Array) -> list[Array]:
    if a.size < LARGE_OUTPUT or channel_lanes(a.shape[-1]) is None:
        return _combine(a, x, *per_channel)
    return [_call("linsey_channel_combine", a.shape, a, x, *per_channel)]


def _transpose_tangent(cotangents: Any, dx: Any, *others: Any) -> Any:
    x, mean, inverse, gain = others[2:]
    dy, dmean, dsquare = map(ad.instantiate_zeros, cotangents)
    count = lax.full_like(mean, math.prod(x.shape[:-1]))
    results = _bind_tangent(
        dy, lax.div(dmean, count), lax.div(dsquare, count), x, mean, inverse, gain
    )
    results = results[0], lax.mul(results[1], count), lax.mul(results[2], count)
    linear = map(ad.is_undefined_primal, (dx, *others[:2]))
    kept = [r if wanted else None for r, wanted in zip(results, linear, strict=True)]
    return [*kept, None, None, None, None]


_bind_tangent = define(
    "standardized_tangent",
    _tangent(_products, _combine),
    _tangent(_products_kernel, _combine_kernel),
    "channels",
    lambda dx, offset, slope, x, mean, inverse, gain: _shapes(
        [dx, x], [offset, slope, mean, inverse, gain], extra=1
    ),
    _transpose_tangent,
)


def standardized_tangent(
    dx: Array,
    offset: Array,
    slope: Array,
    x: Array,
    mean: Array,
    inverse: Array,
    gain: Array,
) -> tuple[Array, Array, Array]:
    """Maps the tangent of `x` to that of `(x - mean) * gain`, whose moments follow `x`.

        dmean = sum(dx) / count,    dsquare = sum(dx (x - mean)) / count
        dy = gain dx + offset - gain dmean + (slope - gain inverse^2 dsquare) (x - mean)

    Linear in the first three arguments; its transpose is, but for factors of `count`,
    the same function. `gain` is `inverse` times a scale.

    Args:
        dx: tangent of `x`.
        offset: what is added to that of the result, for each channel.
        slope: the same, times `x - mean`.
        x: array of shape (..., channels), float32.
        mean: its mean for each channel.
        inverse: its inverse deviation.
        gain: the factor that `x - mean` gets.

    Returns:
        `dy` of the shape of `x`, and `dmean` and `dsquare`; the tangent of the variance
        is twice the latter.

    Example:
        >>> x, dx = jax.numpy.array([[[1.0], [3.0]], [[1.0], [0.0]]])
        >>> zero, one = jax.numpy.zeros(1), jax.numpy.ones(1)
        >>> results = standardized_tangent(dx, zero, zero, x, 2 * one, one, one)
        >>> [value.ravel().tolist() for value in results]
        [[0.0, 0.0], [0.5], [-0.5]]
    """
    dy, dmean, dsquare = _bind_tangent(dx, offset, slope, x, mean, inverse, gain)
    return dy, dmean, dsquare
