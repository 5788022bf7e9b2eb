"""Mean and variance, by one formula for all layers.

*Moments* are the count, the mean and the biased variance of some entries of an array:

    count = sum w,    mean = sum w x / count,    var = sum w |x - mean|^2 / count,

over any axes, over named axes, and with weights `w`; a mask is a weight of 0 and 1.

- They are accurate at any offset. `E[x^2] - E[x]^2` loses `2 log10(|mean| / std)`
  digits; here values are shifted by some of their own, the *anchor*, before they are
  squared, so that nothing large cancels.
- They read the array once: sum and sum of squares of the shifted values come from one
  pass. With weights, where a value picked beforehand could be an absent one, and along
  the first axis alone, the anchor is the mean as a first pass gives it.
- They are kept in float32 at least.
- An entry of weight zero is absent: it may be NaN or infinite.
- Shards are combined by one collective, a gather of their moments. A sum would have
  to be relative to a value all shards know, which is a second collective.

Derivatives are those of the formula, in forward and reverse mode and any nesting of
them; they keep the array and values per channel, nothing else of its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from linsey.ops.broadcast import (
    broadcast_all,
    broadcast_kept,
    canonical_axes,
    expand_rank,
)
from linsey.ops.cpu.dispatch import takes_channels
from linsey.ops.merge import merge_moments, squared_abs
from linsey.ops.named_axes import (
    Groups,
    Names,
    as_groups,
    as_names,
    gather_shards,
    shard_count,
    sum_shards,
)
from linsey.ops.weights import present, total_weight, weigh


class Moments(NamedTuple):
    """The first moments of entries of an array.

    Attributes:
        mean: their mean.
        var: their biased variance, or mean square, real.
        count: their number, or the sum of their weights; a scalar if there are none.
    """

    mean: Array
    var: Array
    count: Array


class Reduction(NamedTuple):
    """What moments are taken over; hashable, for it is static under `jax.jit`.

    Attributes:
        axes: the axes reduced, ascending.
        names: names of the mapped axes reduced.
        groups: indices of the shards that are combined; none means all.
        centred: whether the mean is subtracted; if not, `var` is the mean square.
        dtype: the dtype of the mean; the count and the variance are real.
    """

    axes: tuple[int, ...]
    names: Names = ()
    groups: Groups | None = None
    centred: bool = True
    dtype: Any = np.dtype("float32")


def moments(
    x: Any,
    axes: int | Sequence[int] | None = None,
    weights: Any = None,
    *,
    axis_name: Any = None,
    axis_index_groups: Iterable[Sequence[int]] | None = None,
    centred: bool = True,
) -> Moments:
    """Takes count, mean and biased variance over axes of an array.

    Args:
        x: array of any shape and dtype.
        axes: the axes to reduce; negative ones count from the end, none means all.
        weights: mask or weights >= 0, of a shape that broadcasts to that of `x`.
            Entries of weight zero are absent and may hold anything.
        axis_name: name or names of mapped axes to reduce as well.
        axis_index_groups: groups of indices of that axis, of one size; each group is
            reduced alone.
        centred: whether `var` is the variance; otherwise it is the mean square and
            `mean` is zero.

    Returns:
        Moments of the shape of the axes that are kept, in float32 at least. Where
        nothing is counted, mean and variance are zero.

    Raises:
        ValueError: `weights` does not broadcast to the shape of `x`.
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
    reduction = Reduction(
        canonical_axes(range(x.ndim) if axes is None else axes, x.ndim),
        as_names(axis_name),
        as_groups(axis_index_groups),
        centred,
        jnp.promote_types(x.dtype, jnp.float32),
    )
    if weights is not None:
        weights = expand_rank(weights, x.shape)
    return reduce_moments(reduction, x, weights)


def reduce_moments(reduction: Reduction, x: Array, weights: Array | None) -> Moments:
    """Takes moments as `moments` does, of arguments that are in order already.

    Args:
        reduction: what to reduce.
        x: array.
        weights: mask or weights of the rank of `x`, each axis of its size or 1.

    Returns:
        The moments.
    """
    if weights is not None:
        return Moments(*_moments(reduction, x, weights))
    mean, var = _moments(reduction, x, None)
    return Moments(mean, var, lax.full((), _count(reduction, x.shape), var.dtype))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moments(
    reduction: Reduction, x: Array, weights: Array | None
) -> tuple[Array, ...]:
    """Takes mean and variance, and the count if there are weights."""
    axes, names, groups, centred, dtype = reduction
    by_channel = centred and takes_channels(x, axes) and x.dtype == dtype
    x = lax.convert_element_type(x, dtype)
    if weights is not None:
        local = _weighted_moments(x, weights, axes, centred)
    elif by_channel:
        local = _channel_moments(x)
    else:
        local = _plain_moments(x, axes, centred)
    return _merge_shards(local, names, groups) if names else local


def _plain_moments(
    x: Array, axes: tuple[int, ...], centred: bool
) -> tuple[Array, Array]:
    def average(values: Array) -> Array:
        count = math.prod(values.shape[axis] for axis in axes)
        return _divide(lax.reduce_sum(values, axes), max(count, 1))

    if not centred:
        var = average(squared_abs(x))
        return lax.full_like(var, 0, x.dtype), var
    return _shifted_moments(x, average(_sample(x, axes)), average, axes)


def _channel_moments(x: Array) -> tuple[Array, Array]:
    """Takes moments of the last axis' channels by a kernel."""
    from linsey.ops.cpu.channel_kernels import channel_moments

    axes = tuple(range(x.ndim - 1))
    sample = _sample(x, axes)
    count, few = (math.prod(values.shape[:-1]) for values in (x, sample))
    anchor = _divide(lax.reduce_sum(sample, axes), few)
    first, second = channel_moments(x, anchor)
    return _from_anchor(anchor, _divide(first, count), _divide(second, count))


def _shifted_moments(
    x: Array,
    anchor: Array,
    average: Callable[[Array], Array],
    axes: tuple[int, ...],
) -> tuple[Array, Array]:
    """Takes mean and variance relative to a value in the midst of those of `x`."""
    rest = average(_shift(x, anchor, axes))
    # Minus the anchor as a sum, for XLA on CPU stores a difference that two reductions
    # share: one more array to write and to read.
    other = lax.add(x, broadcast_kept(lax.neg(anchor), x.shape, axes))
    return _from_anchor(anchor, rest, average(squared_abs(other)))


def _from_anchor(anchor: Array, rest: Array, square: Array) -> tuple[Array, Array]:
    """Mean and variance, of mean and mean square of values without the anchor."""
    var = lax.sub(square, squared_abs(rest))
    return lax.add(anchor, rest), lax.max(var, lax.full_like(var, 0))


def _sample(x: Array, axes: tuple[int, ...]) -> Array:
    """Picks values whose mean lies among those of `x`.

    All entries along the first axis to reduce, the middle one along the others. If it
    is the only one, the middle one too, unless it is the first of all: that is the
    batch, and a slice of it would have to be sent to all devices where it is sharded.
    """
    sharding = jax.typeof(x).sharding.spec
    starts, limits = [0] * x.ndim, list(x.shape)
    for axis in axes[1:] or [axis for axis in axes if axis]:
        if x.shape[axis] and sharding[axis] is None:
            starts[axis] = x.shape[axis] // 2
            limits[axis] = starts[axis] + 1
    return lax.slice(x, starts, limits) if limits != list(x.shape) else x


def _weighted_moments(
    x: Array, weights: Array, axes: tuple[int, ...], centred: bool
) -> tuple[Array, Array, Array]:
    count = total_weight(weights, x.shape, axes, jnp.finfo(x.dtype).dtype)
    divisor = _nonzero(count)

    def average(values: Array) -> Array:
        return _divide(lax.reduce_sum(weigh(weights, values), axes), divisor)

    if not centred:
        var = average(squared_abs(x))
        return lax.full_like(var, 0, x.dtype), var, count
    return *_shifted_moments(x, average(x), average, axes), count


def _merge_shards(
    local: tuple[Array, ...], names: Names, groups: Groups | None
) -> tuple[Array, ...]:
    """Combines moments of shards, which travel as one real array."""
    mean, var, *count = local
    is_complex = jnp.iscomplexobj(mean)
    parts = [var, *count, mean.real, *([mean.imag] if is_complex else [])]
    gathered = gather_shards(jnp.stack(parts), names, groups)
    columns = [gathered[:, i] for i in range(len(parts))]
    mean = lax.complex(*columns[-2:]) if is_complex else columns[-1]
    merged = merge_moments(mean, columns[0], columns[1] if count else None)
    return (*merged[:2], *([] if merged[2] is None else [merged[2]]))


def _moments_jvp(
    reduction: Reduction, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    x, weights = primals
    dx, dweights = (None if isinstance(t, SymbolicZero) else t for t in tangents)
    out = _moments(reduction, x, weights)
    if dx is None and dweights is None:
        return out, tuple(map(_zeros, out))
    if dx is None:
        dx = _zeros(x)
    return out, _tangents(reduction, x, weights, out, dx, dweights)


_moments.defjvp(_moments_jvp, symbolic_zeros=True)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=0)
def _tangents(
    reduction: Reduction,
    x: Array,
    weights: Array | None,
    out: tuple[Array, ...],
    dx: Array,
    dweights: Array | None,
) -> tuple[Array, ...]:
    """Maps tangents of values and weights to those of the moments, linearly.

        dmean = sum(w dx + dw (x - mean)) / count
        dvar = 2 sum(w Re[conj(x - mean) dx] + dw (|x - mean|^2 - var) / 2) / count

    A checkpoint, so that reverse mode keeps `x` itself and computes `x - mean` again,
    which is free inside the kernels that use it.
    """
    axes, _, _, centred, dtype = reduction
    mean, var, *count = out
    by_channel = centred and takes_channels(x, axes) and x.dtype == dx.dtype == dtype
    x, dx = (lax.convert_element_type(v, dtype) for v in (x, dx))
    if weights is None and by_channel:
        from linsey.ops.cpu.channel_kernels import channel_products

        first, second = channel_products(dx, x, mean)
        return _from_sums(reduction, x.shape, [second, first], None, mean)
    if centred:
        x = _shift(x, mean, axes)
    if weights is not None:
        # Before it is a factor: reverse mode multiplies `x` with cotangents of zero.
        x = weigh(present(weights), x)
    first, second = weigh(weights, dx), weigh(weights, _real_product(x, dx))
    dcount = list(map(_zeros, count))
    if weights is not None and dweights is not None:
        dweights = weigh(present(weights), dweights)
        dcount = [total_weight(dweights, x.shape, axes, var.dtype)]
        dw = broadcast_all(lax.convert_element_type(dweights, var.dtype), x.shape)
        excess = lax.sub(squared_abs(x), broadcast_kept(var, x.shape, axes))
        first = lax.add(first, lax.mul(lax.convert_element_type(dw, dtype), x))
        second = lax.add(second, lax.mul(dw, lax.mul(excess, _full(excess, 0.5))))
    sums = [lax.reduce_sum(second, axes), *dcount]
    if centred:
        sums.append(lax.reduce_sum(first, axes))
    return _from_sums(reduction, x.shape, sums, count[0] if count else None, mean)


def _from_sums(
    reduction: Reduction,
    shape: tuple[int, ...],
    sums: list[Array],
    count: Array | None,
    mean: Array,
) -> tuple[Array, ...]:
    """Makes tangents of moments of sums: the second, of the count, the first."""
    if reduction.names:
        sums = sum_shards(sums, reduction.names, reduction.groups)
    divisor = _count(reduction, shape) if count is None else _nonzero(count)
    dmean = _divide(sums.pop(), divisor) if reduction.centred else _zeros(mean)
    dvar, *dcount = sums
    return dmean, _divide(lax.mul(dvar, _full(dvar, 2)), divisor), *dcount


def _shift(x: Array, origin: Array, axes: tuple[int, ...]) -> Array:
    return lax.sub(x, broadcast_kept(origin, x.shape, axes))


def _real_product(x: Array, dx: Array) -> Array:
    """Computes `Re[conj(x) dx]`."""
    if jnp.iscomplexobj(x):
        return lax.real(lax.mul(lax.conj(x), dx))
    return lax.mul(x, dx)


def _count(reduction: Reduction, shape: tuple[int, ...]) -> int:
    local = math.prod(shape[axis] for axis in reduction.axes)
    return local * shard_count(reduction.names, reduction.groups)


def _divide(values: Array, divisor: Array | float) -> Array:
    if isinstance(divisor, Array):
        divisor = lax.convert_element_type(divisor, values.dtype)
        return lax.div(values, divisor)
    return lax.div(values, lax.full_like(values, divisor))


def _nonzero(count: Array) -> Array:
    return lax.select(lax.gt(count, _zeros(count)), count, _full(count, 1))


_full = lax.full_like


def _zeros(values: Array) -> Array:
    return lax.full_like(values, 0)
