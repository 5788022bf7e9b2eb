"""Mean and variance, by one formula for all layers.

*Moments* are the count, the mean and the biased variance of some entries of an array:

    count = sum w,    mean = sum w x / count,    var = sum w |x - mean|^2 / count,

over any axes, over named axes, and with weights `w`. A mask has the weights 0 and 1.

- They are accurate at any offset. `E[x^2] - E[x]^2` loses `2 log10(|mean| / std)`
  digits. Here the *shift*, a value that lies among the others, is subtracted before
  squaring, so that no large numbers cancel.
- The array is read once: a single pass gives the sum and the sum of squares of the
  shifted values. In two cases a first pass computes the mean as the shift: with
  weights, because a value picked beforehand could be masked, and for a reduction over
  the first axis alone, unless a kernel does it.
- They are kept in float32 at least.
- They do not overflow. Values are multiplied by a power of two per channel, the
  *prescale*, before anything is subtracted or squared. It is 1 for small values;
  otherwise it brings a small sample of the values, which includes those behind the
  shift, to about 1. This is exact and needs no further pass. Normalization continues
  with the prescaled values; only the variance that `moments` returns is infinite if it
  exceeds the range of its dtype. A value may still overflow if it is 1e18 times as
  large as the whole sample.
- An entry of weight zero is *masked*. It is removed by a selection before any
  multiplication, because `0 * nan` is not 0. It may hold any value, and affects no sum
  and no derivative.
- Devices exchange two sums, the second relative to the result of the first, whether the
  compiler or a named axis divides the batch (`linsey.ops.merging`). The first settles
  the shift and, with one number per layer, the prescale. The amount of data sent does
  not depend on the number of devices.

Derivatives are those of the formula, in forward and reverse mode and any nesting of
them. Their residuals are the array and values per channel, and no other array of its
size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from linsey.ops.arithmetic import (
    divide,
    nonzero,
    real_product,
    square_abs,
    times,
    zeros,
)
from linsey.ops.axes import (
    AxisNames,
    Groups,
    Names,
    as_groups,
    as_names,
    broadcast_all,
    broadcast_kept,
    canonical_axes,
    expand_rank,
    other_axes,
    shard_count,
    sum_shards,
)
from linsey.ops.cpu.dispatch import (
    has_static_shape,
    is_divided,
    is_whole,
    takes_channels,
)
from linsey.ops.merging import Shifted, merge_shards, unshift
from linsey.ops.prescale import (
    LEAST,
    SMALLER,
    largest_finite,
    power_of_size,
    prescale_values,
    settle,
)
from linsey.ops.sharding import repeat_like, split_like
from linsey.promotion import promote_types
from linsey.typing import Dtype

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Inexact, Num, Real


Average = Callable[[Array], Array]

FEW = 8  # entries from which the magnitude of all is estimated
MANY = 64  # rows from which the shift is taken, if there are no axes to choose along


class Moments(NamedTuple):
    """The count and first two moments of entries of an array.

    Attributes:
        mean: their mean.
        var: their biased variance or mean square, a real number.
        count: their number, or the sum of their weights; a scalar without weights.
    """

    mean: Inexact[Array, "..."]  # noqa: UP037
    var: Float[Array, "..."]  # noqa: UP037
    count: Float[Array, "..."]  # noqa: UP037


class NormSpec(NamedTuple):
    """Over which axes moments are taken, and how an array is normalized by them.

    It is hashable, because it is static under `jax.jit` and in derivative rules.

    Attributes:
        axes: the axes that moments are taken over, ascending.
        features: the axes of scale and bias, ascending.
        dtype: dtype of the result. If `None`, the one that the arrays promote to.
            Moments are in float32 at least.
        names: names of the mapped axes that moments are taken over as well.
        groups: indices of the shards that are combined. If `None`, all are.
        centred: whether the mean is subtracted; if not, `var` is the mean square.
    """

    axes: tuple[int, ...]
    features: tuple[int, ...] = ()
    dtype: Dtype | None = None
    names: Names = ()
    groups: Groups | None = None
    centred: bool = True


class ScaledMoments(NamedTuple):
    """The moments of `x * prescale`.

    Attributes:
        mean: their mean.
        var: their biased variance or mean square, a real number.
        count: as in `Moments`.
        prescale: powers of two, at most 1, that count as constants in derivatives.
    """

    mean: Inexact[Array, "..."]  # noqa: UP037
    var: Float[Array, "..."]  # noqa: UP037
    count: Float[Array, "..."]  # noqa: UP037
    prescale: Float[Array, "..."]  # noqa: UP037

    def of_values(self) -> Moments:
        """Return the moments of `x`.

        Example:
            >>> half = jnp.full((), 0.5)
            >>> ScaledMoments(half, half, half, half).of_values().var.item()
            2.0
        """
        prescale = lax.convert_element_type(self.prescale, self.mean.dtype)
        var = lax.div(lax.div(self.var, self.prescale), self.prescale)
        return Moments(lax.div(self.mean, prescale), var, self.count)


def moments(
    x: Num[ArrayLike, "*shape"],
    axes: int | Sequence[int] | None = None,
    weights: Real[ArrayLike, "*#shape"] | Bool[ArrayLike, "*#shape"] | None = None,
    *,
    axis_name: AxisNames | None = None,
    axis_index_groups: Iterable[Sequence[int]] | None = None,
    centred: bool = True,
) -> Moments:
    """Take count, mean and biased variance over axes of an array.

    Args:
        x: array of any shape and dtype.
        axes: the axes to reduce; negative ones count from the end. If `None`, all are
            reduced.
        weights: mask or weights >= 0, of a shape that broadcasts to that of `x`.
            Entries of weight zero are masked and may hold anything.
        axis_name: name or names of mapped axes to reduce as well.
        axis_index_groups: groups of indices of that axis, of equal size; each group is
            reduced on its own.
        centred: whether `var` is the variance; otherwise it is the mean square and
            `mean` is zero.

    Returns:
        Moments of the shape of the axes that are kept, in float32 at least. Where the
        count is zero, mean and variance are zero; a variance beyond the range of the
        dtype is infinite.

    Raises:
        ShapeError: `x` has no such axis, or `weights` does not broadcast to it.
        NameError: an `axis_name` is not bound.

    Example:
        >>> x = jnp.array([[3000.0, 1.0], [3000.5, 3.0], [2999.5, jnp.nan]])
        >>> mean, var, _ = moments(x[:, 0])
        >>> print(mean, f"{var:.4f}")
        3000.0 0.1667
        >>> moments(x, 0, ~jnp.isnan(x)).mean.tolist()
        [3000.0, 2.0]

    References:
        Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance",
        https://doi.org/10.1080/00031305.1983.10483115
    """
    x = jnp.asarray(x)
    spec = NormSpec(
        canonical_axes(range(x.ndim) if axes is None else axes, x.ndim),
        names=as_names(axis_name),
        groups=as_groups(axis_index_groups),
        centred=centred,
    )
    expanded = None if weights is None else expand_rank(weights, x.shape)
    return take_moments(spec, x, expanded).of_values()


def take_moments(spec: NormSpec, x: Array, weights: Array | None) -> ScaledMoments:
    """Take the moments that an array is normalized by.

    Args:
        spec: the axes to reduce.
        x: array.
        weights: mask or weights of the rank of `x`, whose axes have the size of those
            of `x` or 1.

    Returns:
        The moments of `x` times a prescale, and the prescale.

    Example:
        >>> moments = take_moments(NormSpec((0,)), jnp.arange(3.0), None)
        >>> moments.of_values().mean.tolist()
        1.0
    """
    mean, var, *counts, prescale = _moments(spec, x, weights)
    count = counts[0] if counts else lax.full((), _count(spec, x.shape), var.dtype)
    return ScaledMoments(mean, var, count, lax.stop_gradient(prescale))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moments(spec: NormSpec, x: Array, weights: Array | None) -> tuple[Array, ...]:
    """Take mean and variance, the count if there are weights, and the prescale."""
    by_kernel = _sums_by_kernel(spec, x)
    x = lax.convert_element_type(x, _dtype(spec, x))
    if weights is None and by_kernel:
        local = _sum_channels(x)
    else:
        local = _sum_values(x, weights, spec.axes, spec.centred)
    if spec.names:
        return merge_shards(local, spec.names, spec.groups)
    mean, var = unshift(local)
    if _is_divided(spec.axes):
        return settle(mean, var, *local[3:])
    return mean, var, *local[3:]


def _dtype(spec: NormSpec, x: Array) -> jnp.dtype:
    given = x.dtype if spec.dtype is None else spec.dtype
    return promote_types(given, jnp.float32)


def _sums_by_kernel(spec: NormSpec, x: Array) -> bool:
    """Return whether a CPU kernel computes both sums of the moments in one pass."""
    return spec.centred and _dtype(spec, x) == x.dtype and takes_channels(x, spec.axes)


def _sum_channels(x: Array) -> Shifted:
    """Do what `_sum_values` does, with a kernel for channels on the last axis."""
    from linsey.ops.cpu.channel_kernels import channel_moments

    if x.ndim == 2:  # all rows are on this device, so that some can be the sample
        parts = math.gcd(x.shape[0], MANY)
        x = lax.reshape(x, (parts, x.shape[0] // parts, x.shape[1]))
    shift, prescale = _choose_shift(x, None, tuple(range(x.ndim - 1)))
    count, sums = math.prod(x.shape[:-1]), channel_moments(x, shift, prescale)
    return shift, divide(sums[0], count), divide(sums[1], count), prescale


def _sum_values(
    x: Array, weights: Array | None, axes: tuple[int, ...], centred: bool
) -> Shifted:
    """Take the moments of this shard relative to a shift."""
    count, divisor = (), max(math.prod(x.shape[axis] for axis in axes), 1)
    if weights is not None:
        count = (_sum_weights(weights, x.shape, axes, jnp.finfo(x.dtype).dtype),)
        divisor = nonzero(count[0])

    def average(values: Array) -> Array:
        return divide(lax.reduce_sum(_apply_weights(weights, values), axes), divisor)

    if not centred:
        prescale = power_of_size(_sum_few(x, weights, axes))
        second = average(square_abs(prescale_values(x, prescale, axes)))
        return lax.full_like(second, 0, x.dtype), None, second, *count, prescale
    shift, prescale = _choose_shift(x, weights, axes, average)
    first = average(_subtract(prescale_values(x, prescale, axes), shift, axes))
    # Halved, because XLA on CPU stores a product, a difference or a repeated value that
    # two reductions share: one more array to write and read (`benchmarks/memory.py`).
    halved = prescale_values(x, times(prescale, 0.5), axes)
    halved = _subtract(halved, times(shift, 0.5), axes)
    second = times(average(square_abs(halved)), 4)
    return shift, first, second, *count, prescale


def _choose_shift(
    x: Array,
    weights: Array | None,
    axes: tuple[int, ...],
    average: Average | None = None,
) -> tuple[Array, Array]:
    """Choose a value that lies among those of `x * prescale`, and the prescale.

    The value is the mean of a sample or, with weights and along the first axis alone,
    of all of `x`, from a first pass. If a sum may be a sum over devices, the mean is
    computed without waiting for the magnitude of a few values.

    Args:
        x: array.
        weights: mask or weights, or `None`.
        axes: the axes to reduce.
        average: function that takes the mean of an array of the shape of `x`. If
            `None`, the mean without weights is used.

    Returns:
        The shift, which is subtracted from `x * prescale`, and the prescale.
    """
    sample = x if weights is not None else _sample(x, axes)
    size = _sum_few(x, weights, axes)
    if sample is not x and not _is_divided(axes):
        prescale = power_of_size(size)
        sample, count = (
            prescale_values(sample, prescale, axes),
            _entries(sample.shape, axes),
        )
        return divide(lax.reduce_sum(sample, axes), max(count, 1)), prescale
    # Values scaled down this far can be added without overflow.
    smaller = times(sample, SMALLER)
    if weights is None or average is None:
        count = max(_entries(sample.shape, axes), 1)
        mean = divide(lax.reduce_sum(smaller, axes), count)
    else:
        mean = average(smaller)
    size = lax.add(split_like(size, mean), times(lax.abs(mean), 1 / SMALLER))
    prescale = power_of_size(size)
    larger = times(prescale, 1 / SMALLER)
    return lax.mul(mean, lax.convert_element_type(larger, mean.dtype)), prescale


def _is_divided(axes: tuple[int, ...]) -> bool:
    """Return whether sums over the batch may be sums over devices."""
    return axes[:1] == (0,) and is_divided()


def _sum_few(x: Array, weights: Array | None, axes: tuple[int, ...]) -> Array:
    """Add the absolute values of a few entries, times their weights if there are any.

    If a sum may be a sum over devices, the result is one number for all channels: the
    average of the largest value in each row, scaled down.
    """
    sample = _sample(x, axes, FEW)
    if sample is x and not (has_static_shape(x) and _entries(x.shape, axes) <= FEW):
        # Only all entries can be taken. The sum gives the shape and is never computed.
        return zeros(lax.reduce_sum(lax.abs(x), axes))
    if weights is not None:
        weights = _sample(broadcast_all(weights, x.shape), axes, FEW)
    few = lax.abs(_apply_weights(weights, sample))
    if not _is_divided(axes):
        return lax.reduce_sum(few, axes)
    channels = other_axes(axes, x.ndim)
    of_rows = largest_finite(times(few, LEAST), channels)
    rows = math.prod(of_rows.shape)
    of_layer = divide(lax.reduce_sum(of_rows, range(of_rows.ndim)), max(rows, 1))
    return lax.broadcast(of_layer, [x.shape[axis] for axis in channels])


def _sample(x: Array, axes: tuple[int, ...], at_least: int = 1) -> Array:
    """Take a few entries of `x` for each channel.

    These are all entries along the first reduced axis and the middle one along the
    others, or more of them to reach `at_least`. If only one axis is reduced, they are
    the middle entries along it, unless it is the first axis of the array: that is the
    batch, and if it is sharded, a slice of it would have to be sent to all devices.
    """
    sharding = jax.typeof(x).sharding.spec
    starts, limits = [0] * x.ndim, list(x.shape)
    first = () if axes == (0,) and (at_least == 1 or not is_whole()) else axes[:1]
    for axis in axes[1:] or first:
        size, width = x.shape[axis], 1
        if at_least > 1 and axis == axes[-1] and has_static_shape(x):
            others = x.shape[axes[0]] if axes[1:] else 1
            width = min(max(at_least // max(others, 1), 1), size)
        if size and sharding[axis] is None:
            starts[axis] = size // 2 - width // 2
            limits[axis] = starts[axis] + width
    if limits == list(x.shape) and not (at_least > 1 and any(starts)):
        return x
    return lax.slice(x, starts, limits)


def _entries(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(shape[axis] for axis in axes)


# --- derivatives ----------------------------------------------------------------------


def _moments_jvp(
    spec: NormSpec,
    primals: tuple[Array, Array | None],
    tangents: tuple[Array | SymbolicZero, Array | SymbolicZero | None],
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    x, weights = primals
    dx, dweights = (None if isinstance(t, SymbolicZero) else t for t in tangents)
    out = _moments(spec, x, weights)
    if dx is None and dweights is None:
        return out, tuple(map(zeros, out))
    if dx is None:
        dx = zeros(x)
    return out, _tangents(spec, x, weights, out, dx, dweights)


_moments.defjvp(_moments_jvp, symbolic_zeros=True)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=0)
def _tangents(
    spec: NormSpec,
    x: Array,
    weights: Array | None,
    out: tuple[Array, ...],
    dx: Array,
    dweights: Array | None,
) -> tuple[Array, ...]:
    """Map tangents of values and weights to those of the moments, linearly.

        dmean = sum(w dx + dw (x - mean)) / count
        dvar = 2 sum(w Re[conj(x - mean) dx] + dw (|x - mean|^2 - var) / 2) / count

    where `x` and `dx` are multiplied by the prescale, `dx` after the summation.

    This is a checkpoint, so that reverse mode keeps `x` itself and computes `x - mean`
    again, which is free inside the kernels that use it.
    """
    axes, dtype = spec.axes, _dtype(spec, x)
    mean, var, *count, prescale = out
    prescale = lax.stop_gradient(prescale)
    by_kernel = weights is None and dx.dtype == dtype and _sums_by_kernel(spec, x)
    x, dx = (lax.convert_element_type(v, dtype) for v in (x, dx))
    if by_kernel:
        from linsey.ops.cpu.channel_kernels import channel_products

        first, second = channel_products(dx, x, mean, prescale)
        second = times(second, 2)
        return _from_sums(spec, x, [second, first], None, out, prescale)
    # A quarter of `x - mean`, for the reason given in `_sum_values`.
    part = 0.25 if dweights is None else 1.0
    x = prescale_values(x, times(prescale, part), axes)
    if spec.centred:
        x = _subtract(x, times(mean, part), axes)
    if weights is not None:
        # Masked before it is a factor: reverse mode multiplies `x` by zero cotangents.
        x = _apply_weights(is_counted(weights), x)
    first = _apply_weights(weights, dx)
    second = _apply_weights(weights, real_product(x, dx))
    dcount = list(map(zeros, count))
    remaining = prescale
    if weights is not None and dweights is not None:
        first, second = (prescale_values(v, prescale, axes) for v in (first, second))
        remaining = lax.full_like(prescale, 1)
        dweights = _apply_weights(is_counted(weights), dweights)
        dcount = [_sum_weights(dweights, x.shape, axes, var.dtype)]
        dw = broadcast_all(lax.convert_element_type(dweights, var.dtype), x.shape)
        excess = lax.sub(square_abs(x), broadcast_kept(var, x.shape, axes))
        first = lax.add(first, lax.mul(lax.convert_element_type(dw, dtype), x))
        second = lax.add(
            second, lax.mul(dw, lax.mul(excess, lax.full_like(excess, 0.5)))
        )
    sums = [times(lax.reduce_sum(second, axes), 2 / part), *dcount]
    if spec.centred:
        sums.append(lax.reduce_sum(first, axes))
    return _from_sums(spec, x, sums, count[0] if count else None, out, remaining)


def _from_sums(
    spec: NormSpec,
    x: Array,
    sums: list[Array],
    count: Array | None,
    out: tuple[Array, ...],
    prescale: Array,
) -> tuple[Array, ...]:
    """Turn sums into tangents of moments: the second, that of the count, the first."""
    if spec.names:
        sums = sum_shards(sums, spec.names, spec.groups)
    divisor = _count(spec, x.shape) if count is None else nonzero(count)
    dmean = zeros(out[0])
    if spec.centred:
        dmean = divide(sums.pop(), divisor)
        dmean = lax.mul(dmean, lax.convert_element_type(prescale, dmean.dtype))
    dvar, *dcount = sums
    dvar = lax.mul(divide(dvar, divisor), prescale)
    return dmean, dvar, *dcount, zeros(prescale)


# --- weights --------------------------------------------------------------------------


def _apply_weights(weights: Array | None, values: Array) -> Array:
    """Multiply values by weights of the same rank: `w x`, and 0 where `w` is 0."""
    if weights is None:
        return values
    counted = split_like(broadcast_all(is_counted(weights), values.shape), values)
    values = lax.select(counted, values, lax.full_like(values, 0))
    if weights.dtype == bool:
        return values
    weights = lax.convert_element_type(weights, values.dtype)
    return lax.mul(values, broadcast_all(weights, values.shape))


def is_counted(weights: Array) -> Array:
    """Return the mask of the weights that are not zero."""
    if weights.dtype == bool:
        return weights
    return lax.ne(weights, lax.full_like(weights, 0))


def _sum_weights(
    weights: Array, shape: tuple[int, ...], axes: tuple[int, ...], dtype: jnp.dtype
) -> Array:
    """Sum weights over axes of an array of shape `shape` and of the same rank."""
    repeats = math.prod(shape[a] for a in axes if weights.shape[a] == 1)
    total = lax.reduce_sum(lax.convert_element_type(weights, dtype), axes)
    total = lax.mul(total, lax.full_like(total, repeats))
    kept = [size for axis, size in enumerate(shape) if axis not in axes]
    return broadcast_all(total, tuple(kept))


def _subtract(x: Array, values: Array, axes: tuple[int, ...]) -> Array:
    return lax.sub(x, repeat_like(values, other_axes(axes, x.ndim), x))


def _count(spec: NormSpec, shape: tuple[int, ...]) -> int:
    local = math.prod(shape[axis] for axis in spec.axes)
    return local * shard_count(spec.names, spec.groups)
