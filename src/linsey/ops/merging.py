"""Moments of a whole from the moments of its parts.

The variance of the whole is the mean of the variances of its parts plus the variance
of their means. *Parts* lie along an axis of an array (`merge_moments`), or are the
shards of named axes (`merge_shards`):

- Shards of a `vmap` are on one device. They are stacked, without communication.
- Shards of a mesh are combined by two all-reduces, whatever their number. The first
  gives `common`, the mean of the shifts of all shards, which lies among the values.
  Moments relative to it are as small as deviations from the mean, so the second can add
  them. These are three numbers per channel and one per layer, or four per channel with
  weights.

A single sum is not enough: its terms have to be relative to a value that all shards
know, and relative to zero the variance loses `2 log10(|mean| / std)` digits. Gathering
the moments is one collective, but its size grows with the number of shards.

The first sum also tells the magnitude of the largest values, as one number per layer,
so that the squares in the second one do not overflow (`linsey.ops.prescale`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.arithmetic import divide, nonzero, square_abs, times, zeros
from linsey.ops.axes import (
    Groups,
    Names,
    broadcast_kept,
    gather_shards,
    shard_count,
    split_names,
    sum_shards,
)
from linsey.ops.prescale import (
    LEAST,
    SMALLER,
    largest_finite,
    power_of_size,
    settle,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Inexact, Real

# Mean and variance, the count if it differs between channels, and the prescale.
Parts = tuple[Array, ...]
# The shift, mean and mean square relative to it, and the count and prescale as above.
# The mean is `None` if the shift is zero and mean squares are wanted.
Shifted = tuple[Array, Array | None, Array, *tuple[Array, ...]]


def merge_moments(
    mean: Inexact[Array, "*parts"],
    var: Float[Array, "*parts"],
    count: Real[Array, "*#parts"] | None = None,
    axis: int = 0,
) -> tuple[
    Inexact[Array, "*whole"], Float[Array, "*whole"], Real[Array, "*whole"] | None
]:
    """Merge the moments of parts, which lie along one axis.

    The variance of the whole is the mean of the variances of its parts plus the
    variance of their means. Both terms are sums of squares of small numbers, so no
    digits are lost however far the values lie from zero.

    Args:
        mean: means of the parts.
        var: biased variances of the parts, or mean squares with means of zero.
        count: number of values, or sum of weights, of each part. If `None`, all parts
            count the same. The moments of a part with a count of zero are ignored.
        axis: the axis of the parts.

    Returns:
        Mean, variance and count of the whole; the count is `None` if it was not given.

    Example:
        >>> mean, var, count = merge_moments(
        ...     jnp.array([1.0, 4.0]), jnp.array([0.0, 0.0]), jnp.array([1.0, 2.0])
        ... )
        >>> print(mean, var, count)
        3.0 2.0 3.0

    References:
        Chan, Golub, LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115
    """
    total = None if count is None else jnp.sum(count, axis, keepdims=True)

    def average(values: Array) -> Array:
        if count is None or total is None:
            return jnp.mean(values, axis, keepdims=True)
        weighted = jnp.where(count > 0, count * values, 0)
        return jnp.sum(weighted, axis, keepdims=True) / jnp.where(total > 0, total, 1)

    whole = average(mean)
    spread = average(var + square_abs(mean - whole))
    return (
        jnp.squeeze(whole, axis),
        jnp.squeeze(spread, axis),
        None if total is None else jnp.squeeze(total, axis),
    )


# --- shards ---------------------------------------------------------------------------


def unshift(local: Shifted) -> tuple[Array, Array]:
    """Compute mean and variance from the mean and mean square of shifted values.

    Example:
        >>> shift, first, second = jnp.array(3.0), jnp.array(1.0), jnp.array(5.0)
        >>> mean, var = unshift((shift, first, second, jnp.array(1.0)))
        >>> mean.item(), var.item()
        (4.0, 4.0)
    """
    shift, first, second, *_ = local
    if first is None:
        return shift, second
    var = lax.sub(second, square_abs(first))
    return lax.add(shift, first), lax.max(var, np.zeros((), var.dtype))


def merge_shards(local: Shifted, names: Names, groups: Groups | None) -> Parts:
    """Combine the moments of all shards of named axes.

    Args:
        local: moments of `x * prescale` on this shard, relative to a shift.
        names: bound names of axes.
        groups: indices of the shards that are combined.

    Returns:
        Mean and variance of the whole, the count if there was one, and the prescale.

    Example:
        >>> import jax
        >>> one = jnp.ones(2)
        >>> merge = lambda shift: merge_shards((shift, 0 * one, one, one), ("i",), None)
        >>> mean, var, _ = jax.vmap(merge, axis_name="i")(jnp.eye(2))
        >>> mean[0].tolist(), var[0].tolist()
        ([0.5, 0.5], [1.25, 1.25])
    """
    of_mesh, of_vmap = split_names(names)
    if of_vmap:
        whole = _gather((*unshift(local), *local[3:]), of_vmap, groups)
        if not of_mesh:
            return whole
        mean, var, *others = whole
        local = mean, None if local[1] is None else zeros(mean), var, *others
    return _sum_twice(local, of_mesh, groups)


def _gather(local: Parts, names: Names, groups: Groups | None) -> Parts:
    """Combine moments of shards by stacking them as one real array."""
    mean, var, *count, prescale = local
    is_complex = jnp.iscomplexobj(mean)
    parts = [prescale, var, *count, mean.real, *([mean.imag] if is_complex else [])]
    gathered = gather_shards(jnp.stack(parts), names, groups)
    prescales, *columns = [gathered[:, i] for i in range(len(parts))]
    prescale = jnp.min(prescales, 0)  # the one that suits the largest values
    ratio = lax.div(broadcast_kept(prescale, prescales.shape, (0,)), prescales)
    mean = lax.complex(*columns[-2:]) if is_complex else columns[-1]
    mean, var = mean * ratio.astype(mean.dtype), columns[0] * ratio * ratio
    merged = merge_moments(mean, var, columns[1] if count else None)
    return (*merged[:2], *([] if merged[2] is None else [merged[2]]), prescale)


def _sum_twice(local: Shifted, names: Names, groups: Groups | None) -> Parts:
    """Combine the moments of shards by two sums over the shards."""
    shift, first, _, *count, prescale = local
    var, centred = unshift(local)[1], first is not None
    # The terms of the first sum are known before all values have been read.
    equal = 1 / shard_count(names, groups)
    share = times(count[0], SMALLER) if count else lax.full_like(var, equal)
    size = lax.div(lax.full_like(prescale, LEAST * equal), prescale)
    terms = [largest_finite(size), *([share] if count else [])]
    if centred:
        terms.append(_multiply(divide(shift, prescale), share))
    sums = sum_shards(terms, names, groups)
    common = sums.pop() if centred else zeros(shift)
    if count:
        counted = nonzero(sums[1])
        common, share = divide(common, counted), divide(share, counted)
        count = [times(sums[1], 1 / SMALLER)]

    scale = power_of_size(lax.abs(common) + sums[0])
    ratio, common = lax.div(scale, prescale), _multiply(common, scale)
    var = var * ratio * ratio
    if first is None:
        (var,) = sum_shards([var * share], names, groups)
        return settle(common, var, *count, scale)
    # The difference of values that are close to each other is exact.
    first = (_multiply(shift, ratio) - common) + _multiply(first, ratio)
    terms = [_multiply(first, share), (var + square_abs(first)) * share]
    first, second = sum_shards(terms, names, groups)
    mean, var = unshift((common, first, second, scale))
    return settle(mean, var, *count, scale)


def _multiply(values: Array, factor: Array) -> Array:
    return lax.mul(values, lax.convert_element_type(factor, values.dtype))
