"""Two sums for each channel of large arrays on a CPU, in one pass over the arrays.

XLA reads an array once for each sum (`benchmarks/batch_norm.py`, with and without
`LINSEY_KERNELS=0`). Batch normalization always needs two sums at a time, forward and
backward; here each pair is one operation. Channels are the last axis, and the sums are
over all others.

Arrays are multiplied by a *prescale* and then shifted, so that neither differences nor
squares overflow: the squared values are `x * prescale - shift`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from jax import Array, lax
from jax.core import ShapedArray
from jax.interpreters import ad

from linsey.errors.base import ShapeError
from linsey.ops.cpu.dispatch import Shape, channel_lanes, takes_combination
from linsey.ops.cpu.primitive import (
    Cotangents,
    Linear,
    call_kernel,
    define,
    kept,
    refuse_transposition,
)


def _sum(values: Array) -> Array:
    return lax.reduce_sum(values, tuple(range(values.ndim - 1)))


def _spread(values: Array, shape: Shape) -> Array:
    return lax.broadcast_in_dim(values, shape, (len(shape) - 1,))


def _channels(
    arrays: Sequence[ShapedArray], per_channel: Sequence[ShapedArray]
) -> Shape:
    """Check that array shapes match; return the shape of a value per channel."""
    shape, channels = arrays[0].shape, arrays[0].shape[-1:]
    found = [operand.shape for operand in (*arrays, *per_channel)]
    if found != [shape] * len(arrays) + [channels] * len(per_channel):
        shapes = ", ".join(map(str, found))
        raise ShapeError(
            f"`sums per channel` got arrays of the shapes {shapes}.",
            f"They have to be {len(arrays)} of one shape, and {len(per_channel)} of "
            "its last axis: a kernel reads memory by these shapes.",
            "Reshape or broadcast the arrays before the call.",
        )
    return channels


def _call(target: str, result: Shape, x: Array, *others: Array) -> Array:
    """Call a kernel for arrays of the shape of `x`, for which there are lanes."""
    lanes = channel_lanes(x.shape)
    assert lanes is not None
    plan = (math.prod(x.shape[:-1]), x.shape[-1], lanes)
    return call_kernel(target, [result], (x, *others), plan)[0]


def _shifted(x: Array, shift: Array, prescale: Array) -> Array:
    scaled = lax.mul(x, _spread(prescale, x.shape))
    return lax.sub(scaled, _spread(shift, x.shape))


def _one(shift: Array) -> Array:
    return lax.full_like(shift, 1)


# --- moments ------------------------------------------------------------------------


def _moments(x: Array, shift: Array, prescale: Array) -> list[Array]:
    shifted = _shifted(x, shift, prescale)
    return [_sum(shifted), _sum(lax.mul(shifted, shifted))]


def _moments_kernel(x: Array, shift: Array, prescale: Array) -> list[Array]:
    if channel_lanes(x.shape) is None:
        return _moments(x, shift, prescale)
    shape = (2, x.shape[-1])
    return [*_call("linsey_channel_moments", shape, x, shift, prescale)]


_bind_moments = define(
    "channel_moments",
    _moments,
    _moments_kernel,
    "channels",
    lambda x, *per_channel: [_channels([x], per_channel)] * 2,
    refuse_transposition,
)


def channel_moments(
    x: Array, shift: Array, prescale: Array | None = None
) -> tuple[Array, Array]:
    """Return the sums of `x * prescale - shift` and of its square.

    Args:
        x: Array of shape (..., channels), float32.
        shift: Array of shape (channels,).
        prescale: Array of that shape. If `None`, it is 1.

    Returns:
        Two arrays of shape (channels,).

    Raises:
        ShapeError: The shapes of the arrays do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0], [4.0]])
        >>> first, second = channel_moments(x, jnp.ones(1))
        >>> first.item(), second.item()
        (3.0, 9.0)
    """
    prescale = _one(shift) if prescale is None else prescale
    first, second = _bind_moments(x, shift, prescale)
    return first, second


# --- products, and their transpose --------------------------------------------------


def _products(a: Array, x: Array, shift: Array, prescale: Array) -> list[Array]:
    shifted = _shifted(x, shift, prescale)
    return [_sum(a), _sum(lax.mul(a, shifted))]


def _products_kernel(a: Array, x: Array, shift: Array, prescale: Array) -> list[Array]:
    if channel_lanes(x.shape) is None:
        return _products(a, x, shift, prescale)
    shape = (2, x.shape[-1])
    return [*_call("linsey_channel_products", shape, x, shift, prescale, a)]


def _transpose_products(
    cotangents: Cotangents, a: Linear, *others: Array
) -> list[Array | None]:
    first, second = map(ad.instantiate_zeros, cotangents)
    return [channel_spread(first, second, *others), None, None, None]


def _spreads(
    first: Array, second: Array, x: Array, shift: Array, prescale: Array
) -> list[Array]:
    scaled = lax.mul(x, _spread(prescale, x.shape))
    # The difference as a sum, for the reason given in `moments._sum_values`.
    shifted = lax.add(scaled, _spread(lax.neg(shift), x.shape))
    shifted = lax.mul(shifted, _spread(second, x.shape))
    return [lax.add(shifted, _spread(first, x.shape))]


def _transpose_spreads(
    cotangents: Cotangents, first: Linear, second: Linear, *others: Array
) -> list[Array | None]:
    sums = channel_products(ad.instantiate_zeros(cotangents[0]), *others)
    return [*kept(sums, (first, second)), None, None, None]


def _spread_shapes(*operands: ShapedArray) -> list[Shape]:
    first, second, x, *per_channel = operands
    _channels([x], [first, second, *per_channel])
    return [x.shape]


_bind_products = define(
    "channel_products",
    _products,
    _products_kernel,
    "channels",
    lambda a, x, *per_channel: [_channels([a, x], per_channel)] * 2,
    _transpose_products,
    multilinear=(0,),
)
_bind_spread = define(
    "channel_spread",
    _spreads,
    _spreads,  # XLA fuses it with its consumers
    "channels",
    _spread_shapes,
    _transpose_spreads,
)


def channel_products(
    a: Array, x: Array, shift: Array, prescale: Array | None = None
) -> tuple[Array, Array]:
    """Return the sums of `a` and of `a * (x * prescale - shift)`; linear in `a`.

    Args:
        a: Array of shape (..., channels), float32.
        x: Array of the same shape.
        shift: Array of shape (channels,).
        prescale: Array of that shape. If `None`, it is 1.

    Returns:
        Two arrays of shape (channels,).

    Raises:
        ShapeError: The shapes of the arrays do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> a, x = jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [5.0]])
        >>> first, second = channel_products(a, x, jnp.ones(1))
        >>> first.item(), second.item()
        (3.0, 10.0)
    """
    prescale = _one(shift) if prescale is None else prescale
    first, second = _bind_products(a, x, shift, prescale)
    return first, second


def channel_spread(
    first: Array, second: Array, x: Array, shift: Array, prescale: Array | None = None
) -> Array:
    """Compute `first + second * (x * prescale - shift)`.

    It is the transpose of `channel_products`.

    Args:
        first: Array of shape (channels,).
        second: Array of shape (channels,).
        x: Array of shape (..., channels), float32.
        shift: Array of shape (channels,).
        prescale: Array of that shape. If `None`, it is 1.

    Returns:
        An array of the shape of `x`.

    Raises:
        ShapeError: The shapes of the arrays do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> one, x = jnp.ones(1), jnp.array([[3.0], [5.0]])
        >>> channel_spread(one, 2 * one, x, one).ravel().tolist()
        [5.0, 9.0]
    """
    prescale = _one(shift) if prescale is None else prescale
    return _bind_spread(first, second, x, shift, prescale)[0]


# --- the tangent of standardized values ----------------------------------------------


def _tangent(
    products: Callable[..., list[Array]], combine: Callable[..., Array]
) -> Callable[..., list[Array]]:
    def tangent(*operands: Array) -> list[Array]:
        dx, offset, slope, x, mean, rstd, multiplier, prescale = operands
        count = lax.full_like(mean, math.prod(x.shape[:-1]))
        dmean, dsquare = (lax.div(v, count) for v in products(dx, x, mean, prescale))
        first = lax.sub(offset, lax.mul(multiplier, dmean))
        dslope = lax.mul(lax.mul(multiplier, lax.mul(rstd, rstd)), dsquare)
        second = lax.sub(slope, dslope)
        dy = combine(dx, x, mean, prescale, multiplier, first, second)
        return [dy, dmean, dsquare]

    return tangent


def _combine(
    a: Array,
    x: Array,
    shift: Array,
    prescale: Array,
    multiplier: Array,
    first: Array,
    second: Array,
) -> Array:
    (y,) = _spreads(first, second, x, shift, prescale)
    return lax.add(y, lax.mul(a, _spread(multiplier, x.shape)))


def _combine_kernel(a: Array, *others: Array) -> Array:
    if not takes_combination(a.shape):
        return _combine(a, *others)
    return _call("linsey_channel_combine", a.shape, a, *others)


def _tangent_shapes(*operands: ShapedArray) -> list[Shape]:
    dx, offset, slope, x, *per_channel = operands
    channels = _channels([dx, x], [offset, slope, *per_channel])
    return [x.shape, channels, channels]


def _transpose_tangent(
    cotangents: Cotangents, dx: Linear, offset: Linear, slope: Linear, *others: Array
) -> list[Array | None]:
    x, mean, *_ = others
    dy, dmean, dsquare = map(ad.instantiate_zeros, cotangents)
    count = lax.full_like(mean, math.prod(x.shape[:-1]))
    means = lax.div(dmean, count), lax.div(dsquare, count)
    results = _bind_tangent(dy, *means, *others)
    results = results[0], lax.mul(results[1], count), lax.mul(results[2], count)
    return [*kept(results, (dx, offset, slope)), *[None] * len(others)]


_bind_tangent = define(
    "standardized_tangent",
    _tangent(_products, _combine),
    _tangent(_products_kernel, _combine_kernel),
    "channels",
    _tangent_shapes,
    _transpose_tangent,
)


def standardized_tangent(
    dx: Array,
    offset: Array,
    slope: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    multiplier: Array,
    prescale: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Map a tangent of `x` to that of `(x - mean) * multiplier`.

    The moments are those of `x`, and have tangents too:

        dmean = sum(dx) / count,    dsquare = sum(dx (x - mean)) / count
        dy = multiplier (dx - dmean) + offset
             + (slope - multiplier rstd^2 dsquare) (x - mean)

    With a prescale, `x - mean` is `x * prescale - mean` in all of these.

    The function is linear in its first three arguments. Its transpose is the same
    function of the cotangents `dy`, `dmean / count` and `dsquare / count`, whose last
    two results times `count` are the cotangents of `offset` and `slope`.

    Args:
        dx: Tangent of `x`.
        offset: Term of the tangent of the result, of shape (channels,).
        slope: Factor of `x - mean` in that tangent, of shape (channels,).
        x: Array of shape (..., channels), float32.
        mean: Mean of each channel.
        rstd: Reciprocal standard deviation of each channel.
        multiplier: `rstd` times the scale, and times the prescale.
        prescale: Factor of `x`. If `None`, it is 1.

    Returns:
        `dy` of the shape of `x`, and `dmean` and `dsquare`; the tangent of the variance
        is twice the latter.

    Raises:
        ShapeError: The shapes of the arrays do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> x, dx = jnp.array([[[1.0], [3.0]], [[1.0], [0.0]]])
        >>> zero, one = jnp.zeros(1), jnp.ones(1)
        >>> results = standardized_tangent(dx, zero, zero, x, 2 * one, one, one)
        >>> [value.ravel().tolist() for value in results]
        [[0.0, 0.0], [0.5], [-0.5]]
    """
    prescale = _one(mean) if prescale is None else prescale
    values = x, mean, rstd, multiplier, prescale
    dy, dmean, dsquare = _bind_tangent(dx, offset, slope, *values)
    return dy, dmean, dsquare
