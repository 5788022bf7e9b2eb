"""Batch normalization: batch statistics in training, running ones in evaluation.

    mean, var = moments of x over all axes but the channels
    y = (x - mean) * scale / sqrt(var + epsilon) + bias
    running = momentum * running + (1 - momentum) * (mean, var)

The running statistics ignore a batch without values, whether it is empty or masked
entirely, and by default also channels whose moments are not finite.

*Ghost batches* are groups of examples that are normalized separately, whichever devices
hold them. *Batch renormalization* brings outputs in training close to those in
evaluation:

    y = (x - mean) / sigma * r + d
    r = clip(sigma / running sigma, 1 / r_max, r_max)
    d = clip((mean - running mean) / running sigma, -d_max, d_max)

`r` and `d` count as constants in derivatives. With `r_max = 1` and `d_max = 0` this is
batch normalization; without bounds, normalization by the running statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from linsey.ops import axes
from linsey.ops.moments import Moments, NormSpec, ScaledMoments, take_moments
from linsey.ops.normalize import (
    add_epsilon,
    apply_moments,
    normalize_halved,
    reciprocal_deviation,
    standardize,
    standardize_jit,
)
from linsey.ops.sharding import is_split, split_like
from linsey.promotion import promote
from linsey.typing import Dtype

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Inexact, Num, Real

Pair = tuple[Array, Array]
Triple = tuple[Array, Array, Array]
Scalars = tuple[ArrayLike, ArrayLike]


def batch_norm(
    x: Num[ArrayLike, "*shape"],
    scale: Num[ArrayLike, "*channels"] | None = None,
    bias: Num[ArrayLike, "*channels"] | None = None,
    weights: Real[ArrayLike, "*#shape"] | Bool[ArrayLike, "*#shape"] | None = None,
    *,
    axis: int | Iterable[int] = -1,
    epsilon: Real[ArrayLike, ""] = 1e-5,
    dtype: Dtype | None = None,
    axis_name: axes.AxisNames | None = None,
    axis_index_groups: Iterable[Sequence[int]] | None = None,
) -> tuple[Inexact[Array, "*shape"], Moments]:
    """Normalize a batch by its own moments, as in training.

    In evaluation use `normalize` with running statistics kept by `ema`.

    Args:
        x: array of any shape.
        scale: factors, of the shape of the axes `axis`. If `None`, there are none.
        bias: offsets of the same shape. If `None`, there are none.
        weights: mask or weights >= 0, of a shape that broadcasts to that of `x`.
        axis: the axes of the channels, each of which is normalized on its own.
        epsilon: number added to the variance.
        dtype: dtype of the result. If `None`, the one that `x`, `scale` and `bias`
            promote to. Moments are taken in float32 at least.
        axis_name: name or names of mapped axes that belong to the batch.
        axis_index_groups: groups of indices of that axis; each is a batch of its own.

    Returns:
        The normalized batch, and its moments per channel.

    Raises:
        ShapeError: `x` has no such axis, or `weights` does not broadcast to it.
        NameError: an `axis_name` is not bound.

    Example:
        >>> x = jnp.array([[1.0, 5.0], [3.0, 9.0]])
        >>> y, (mean, var, count) = batch_norm(x, epsilon=0.0)
        >>> y.tolist(), mean.tolist(), var.tolist(), float(count)
        ([[-1.0, -1.0], [1.0, 1.0]], [2.0, 7.0], [1.0, 4.0], 2.0)

    References:
        Ioffe, Szegedy 2015, https://arxiv.org/abs/1502.03167
    """
    x = jnp.asarray(x)
    channels = axes.canonical_axes(axis, x.ndim)
    spec = NormSpec(
        axes.other_axes(channels, x.ndim),
        channels,
        dtype,
        axes.as_names(axis_name),
        axes.as_groups(axis_index_groups),
    )
    expanded = None if weights is None else axes.expand_rank(weights, x.shape)
    scale, bias = (None if v is None else jnp.asarray(v) for v in (scale, bias))
    return standardize_jit(spec, x, expanded, scale, bias, epsilon)


def ema(
    average: Num[ArrayLike, "*shape"],
    value: Num[ArrayLike, "*shape"],
    momentum: Real[ArrayLike, ""],
    valid: Bool[ArrayLike, "*#shape"] = True,
    *,
    complement: Real[ArrayLike, ""] | None = None,
) -> Inexact[Array, "*shape"]:
    """Move an average towards a value: `momentum average + (1 - momentum) value`.

    Args:
        average: the old average, of any shape.
        value: the new value, of the same shape.
        momentum: fraction of the old average that is kept, in [0, 1].
        valid: where to move the average; elsewhere the old one is kept.
        complement: `1 - momentum`, if it is known more precisely than it could be
            computed: traced in float32, 1 - 0.999 has a relative error of 1e-5. If
            `None`, it is computed.

    Returns:
        The new average.

    Example:
        >>> old, new = jnp.array([1.0, 1.0]), jnp.array([2.0, jnp.nan])
        >>> ema(old, new, 0.5, jnp.isfinite(new)).tolist()
        [1.5, 1.0]
    """
    average, value = jnp.asarray(average), jnp.asarray(value)
    if complement is None:
        complement = 1 - momentum
    kept, added = promote(average * momentum, value * complement)
    moved, average = kept + added, average.astype(kept.dtype)
    if valid is True:
        return moved
    if is_split(moved):
        valid = split_like(jnp.broadcast_to(valid, moved.shape), moved)
        average = split_like(average, moved)
    return jnp.where(valid, moved, average)


# --- training and evaluation with running statistics ----------------------------------


class UpdateRule(NamedTuple):
    """How running statistics follow a batch, and what counts as a batch; hashable.

    Attributes:
        group_size: number of examples (along the first axis) that are normalized
            together. If `None`, all are.
        unbiased: whether the running variance is the unbiased one.
        propagate: whether NaN or infinite moments enter the running statistics.
    """

    group_size: int | None = None
    unbiased: bool = False
    propagate: bool = False


@partial(jax.jit, static_argnums=(0, 1))
def train_batch_norm(
    spec: NormSpec,
    rule: UpdateRule,
    x: Array,
    weights: Array | None,
    scale: Array | None,
    bias: Array | None,
    epsilon: ArrayLike,
    running: Pair,
    decay: Scalars,
    limits: Scalars | None = None,
) -> tuple[Array, Pair]:
    """Normalize a batch and move the running mean and variance towards its own.

    Args:
        spec: the reduced axes, the channels and the dtype of the result.
        rule: how the running statistics follow the batch.
        x: array of any shape.
        weights: mask or weights of the rank of `x`, or `None`. Where all of them are
            zero, the running statistics are used in place of those of the batch.
        scale: factors per channel, or `None`.
        bias: offsets per channel, or `None`.
        epsilon: number added to the variance.
        running: running mean and variance.
        decay: `momentum` and `1 - momentum`.
        limits: `r_max` and `d_max` of batch renormalization, or `None`.

    Returns:
        The normalized batch, and the new running mean and variance.

    Example:
        >>> running = jnp.zeros(1), jnp.ones(1)
        >>> y, running = train_batch_norm(
        ...     NormSpec((0,), (1,)), UpdateRule(), jnp.array([[1.0], [5.0]]), None,
        ...     None, None, 0.0, running, (0.5, 0.5),
        ... )
        >>> y.ravel().tolist(), [value.item() for value in running]
        ([-1.0, 1.0], [1.5, 2.5])
    """
    whole, order = spec, None
    if rule.group_size is not None:
        spec, x, weights, order = _split(spec, x, weights, rule.group_size)
    if weights is None and limits is None:
        y, moments = standardize(spec, x, None, scale, bias, epsilon)
    else:
        scaled = take_moments(spec, x, weights)
        moments = scaled.of_values()
        chosen = _choose(weights, scaled, running, epsilon, limits)
        y = apply_moments(spec, x, weights, *chosen[:2], scale, bias, chosen[2])
    if rule.group_size is not None:
        y = join_examples(y, order)
    return y, _follow(whole, rule, running, moments, decay)


@partial(jax.jit, static_argnums=(0, 1))
def train_moments(
    spec: NormSpec,
    rule: UpdateRule,
    x: Array,
    epsilon: ArrayLike,
    running: Pair,
    decay: Scalars,
    limits: Scalars | None = None,
) -> tuple[Triple, Pair]:
    """Do what `train_batch_norm` does, except for the normalization itself.

    Returns:
        The mean and reciprocal standard deviation of `x * prescale` to normalize by,
        with the prescale; and the new running mean and variance.

    Example:
        >>> (mean, rstd, prescale), _ = train_moments(
        ...     NormSpec((0,), (1,)), UpdateRule(), jnp.array([[1.0], [5.0]]), 0.0,
        ...     (jnp.zeros(1), jnp.ones(1)), (0.5, 0.5),
        ... )
        >>> (mean / prescale).item(), (rstd * prescale).item()
        (3.0, 0.5)
    """
    moments = take_moments(spec, x, None)
    updated = _follow(spec, rule, running, moments.of_values(), decay)
    return _choose(None, moments, running, epsilon, limits), updated


@partial(jax.jit, static_argnums=0)
def evaluate_batch_norm(
    spec: NormSpec,
    x: Array,
    scale: Array | None,
    bias: Array | None,
    epsilon: ArrayLike,
    running: Pair,
) -> Array:
    """Normalize a batch by running statistics; the arguments are as in training.

    Example:
        >>> spec, running = NormSpec((0,), (1,)), (jnp.ones(1), jnp.full(1, 4.0))
        >>> x = jnp.array([[1.0], [5.0]])
        >>> evaluate_batch_norm(spec, x, None, None, 0.0, running).tolist()
        [[0.0], [2.0]]
    """
    mean, var = running
    if any(x.shape[axis] == 1 for axis in spec.features):
        # One channel with statistics of several: a misuse that is allowed to broadcast.
        sizes = dict(zip(spec.features, mean.shape, strict=True))
        x = jnp.broadcast_to(x, [sizes.get(i, n) for i, n in enumerate(x.shape)])
    return normalize_halved(spec, x, mean, var, scale, bias, epsilon)


def _choose(
    weights: Array | None,
    moments: ScaledMoments,
    running: Pair,
    epsilon: ArrayLike,
    limits: Scalars | None,
) -> Triple:
    """Choose the mean, `rstd` and prescale that a batch is normalized by."""
    mean, var, count, prescale = moments
    if weights is not None:
        counted = split_like(count > 0, mean)
        # The prescale of a batch without values is 1.
        mean = jnp.where(counted, mean, split_like(running[0], mean))
        var = jnp.where(counted, var, split_like(running[1], mean))
    moments = moments._replace(var=var)
    if limits is None:
        return mean, reciprocal_deviation(moments, epsilon), prescale
    sigma = lax.sqrt(add_epsilon(moments, epsilon))
    running_mean, running_var = (axes.expand_rank(v, mean.shape) for v in running)
    running_sigma = lax.sqrt(running_var + epsilon) * prescale
    running_mean *= prescale.astype(running_mean.dtype)
    return *renormalize(mean, sigma, running_mean, running_sigma, limits), prescale


def batch_statistics(
    spec: NormSpec, rule: UpdateRule, x: Array, weights: Array | None
) -> Moments:
    """Compute the moments of a batch that running statistics follow under a rule.

    Args:
        spec: the axes to reduce.
        rule: which moments: of the whole batch, or averages over groups of examples.
        x: array of any shape.
        weights: mask or weights of the rank of `x`, or `None`.

    Returns:
        Mean, variance and count; the count is a scalar if there are no weights.

    Example:
        >>> x = jnp.array([[1.0], [3.0], [11.0], [13.0]])
        >>> rule = UpdateRule(group_size=2)
        >>> mean, var, count = batch_statistics(NormSpec((0,), (1,)), rule, x, None)
        >>> mean.item(), var.item()  # 26 without groups
        (7.0, 1.0)
    """
    whole = spec
    if rule.group_size is not None:
        spec, x, weights, _ = _split(spec, x, weights, rule.group_size)
    return _followed(whole, rule, take_moments(spec, x, weights).of_values())


def _followed(spec: NormSpec, rule: UpdateRule, moments: Moments) -> Moments:
    """Turn the moments of a batch, or of its groups, into the target of an average."""
    mean, var, count = moments
    if rule.unbiased:
        degrees = jnp.where(count > 1, count - 1, 1)
        var = jnp.where(count > 1, var * count / degrees, var)
    if rule.group_size is not None:
        mean, var, count = _average_groups(spec, mean, var, count)
    return Moments(mean, var, count)


def _follow(
    spec: NormSpec, rule: UpdateRule, running: Pair, moments: Moments, decay: Scalars
) -> Pair:
    """Move running statistics towards the moments of a batch where they are valid."""
    mean, var, count = _followed(spec, rule, moments)
    valid = count > 0
    if not rule.propagate:
        valid = jnp.isfinite(mean) & jnp.isfinite(var) & valid
    return (
        ema(running[0], mean, decay[0], valid, complement=decay[1]),
        ema(running[1], var, decay[0], valid, complement=decay[1]),
    )


# --- ghost batches --------------------------------------------------------------------


def _split(
    spec: NormSpec, x: Array, weights: Array | None, size: int
) -> tuple[NormSpec, Array, Array | None, np.ndarray | None]:
    """Divide a batch into groups along a new first axis, or combine shards."""
    shards, groups = axes.shard_count(spec.names), None
    if shards > 1:
        groups = shard_groups(shards, x.shape[0], size)
    names = () if groups is None else spec.names
    x, weights, order = split_examples(x, weights, size)
    reduced, features = (
        tuple(axis + 1 for axis in given) for given in (spec.axes, spec.features)
    )
    spec = spec._replace(axes=reduced, features=features, names=names, groups=groups)
    return spec, x, weights, order


def split_examples(
    x: Array, weights: Array | None, size: int
) -> tuple[Array, Array | None, np.ndarray | None]:
    """Divide the first axis into groups of at most `size` examples.

    A batch of `n` examples has `ceil(n / size)` groups, whose sizes differ by one at
    most. Groups consist of neighbours, which lie on the same device if the batch is
    sharded.

    Args:
        x: array of shape (batch, ...).
        weights: mask or weights of the rank of `x`, or `None`.
        size: the largest size of a group, at least 1.

    Returns:
        An array of shape (groups, largest group, ...); its weights, which are zero
        where a group has fewer examples; and the indices of the examples in it, or
        `None` if they are in order.

    Example:
        >>> parts, weights, order = split_examples(jnp.arange(5)[:, None], None, 2)
        >>> parts[..., 0].tolist(), weights[..., 0].astype(int).tolist()
        ([[0, 1], [2, 3], [4, 4]], [[1, 1], [1, 1], [1, 0]])
        >>> join_examples(parts, order)[:, 0].tolist()
        [0, 1, 2, 3, 4]
    """
    batch = x.shape[0]
    groups = max(math.ceil(batch / size), 1)
    largest = math.ceil(batch / groups)
    if groups * largest == batch:
        if weights is not None:
            sizes = (1, 1) if weights.shape[0] == 1 else (groups, largest)
            weights = lax.reshape(weights, (*sizes, *weights.shape[1:]))
        return lax.reshape(x, (groups, largest, *x.shape[1:])), weights, None
    full = batch - groups * (largest - 1)
    sizes = np.where(np.arange(groups) < full, largest, largest - 1)
    starts = np.cumsum(sizes) - sizes
    filled = np.arange(largest) < sizes[:, None]  # (groups, largest)
    rows = np.minimum(starts[:, None] + np.arange(largest), batch - 1)
    counted = jnp.asarray(filled.reshape(*filled.shape, *[1] * (x.ndim - 1)))
    if weights is not None:
        at_rows = np.zeros_like(rows) if weights.shape[0] == 1 else rows
        taken = weights[at_rows]
        is_mask = weights.dtype == bool
        counted = counted & taken if is_mask else jnp.where(counted, taken, 0)
    return x[rows], counted, np.flatnonzero(filled)


def join_examples(y: Array, order: np.ndarray | None) -> Array:
    """Undo `split_examples`."""
    flat = lax.reshape(y, (y.shape[0] * y.shape[1], *y.shape[2:]))
    return flat if order is None else flat[order]


def shard_groups(shards: int, examples: int, size: int) -> axes.Groups | None:
    """Group neighbouring shards, so that a group holds at most `size` examples.

    Args:
        shards: size of the named axis.
        examples: number of examples per shard.
        size: the largest size of a group.

    Returns:
        The indices of the shards in each group, or `None` if each shard is its own.

    Example:
        >>> shard_groups(4, 8, 16), shard_groups(4, 8, 15)
        (((0, 1), (2, 3)), None)
    """
    fitting = [
        count
        for count in range(1, shards + 1)
        if shards % count == 0 and count * examples <= size
    ]
    span = max(fitting, default=1)
    if span == 1:
        return None
    indices = np.arange(shards).reshape(-1, span)
    return tuple(tuple(map(int, group)) for group in indices)


def _average_groups(
    spec: NormSpec, mean: Array, var: Array, count: Array
) -> tuple[Array, Array, Array]:
    """Average the moments of the groups, including those on other shards.

    These are not the moments of the whole batch: in evaluation, the variance has to
    match the one by which the groups were normalized in training.
    """
    count = jnp.broadcast_to(count, mean.shape)
    mean, var = (jnp.where(count > 0, count * v, 0) for v in (mean, var))
    sums = jnp.sum(jnp.stack([mean, var, count]), axis=1)
    mean, var, total = axes.sum_shards(lax.stop_gradient(sums), spec.names)
    divisor = jnp.where(total > 0, total, 1)
    return mean / divisor, var / divisor, total


# --- batch renormalization ------------------------------------------------------------


def renormalize(
    mean: Array,
    sigma: Array,
    running_mean: Array,
    running_sigma: Array,
    limits: Scalars,
) -> Pair:
    """Adjust the moments of a batch so that normalizing by them is renormalization.

    Args:
        mean: means of the batch.
        sigma: standard deviations of the batch.
        running_mean: running averages of the means.
        running_sigma: running averages of the standard deviations.
        limits: `r_max`, the bound on the change of scale, at least 1, and `d_max`, the
            bound on the change of offset, at least 0.

    Returns:
        The mean to subtract, and the reciprocal standard deviation to multiply by.

    Example:
        >>> one, two = jnp.ones(1), jnp.full(1, 2.0)
        >>> mean, rstd = renormalize(two, two, one, one, (4.0, 8.0))
        >>> mean.tolist(), rstd.tolist()  # those of the running statistics
        ([1.0], [1.0])
        >>> mean, rstd = renormalize(two, two, one, one, (1.0, 0.0))
        >>> mean.tolist(), rstd.tolist()  # those of the batch
        ([2.0], [0.5])

    References:
        Ioffe 2017, https://arxiv.org/abs/1702.03275
    """
    r_max, d_max = (jnp.asarray(limit, sigma.dtype) for limit in limits)
    r = lax.stop_gradient(jnp.clip(sigma / running_sigma, 1 / r_max, r_max))
    d = (mean - running_mean) / running_sigma
    d = lax.stop_gradient(jnp.clip(d, -d_max, d_max))
    return mean - d * sigma / r, r / sigma


def renorm_schedule(
    warmup: int = 5_000,
    r_steps: int = 40_000,
    d_steps: int = 25_000,
    r_max: float = 3.0,
    d_max: float = 5.0,
) -> Callable[
    [Real[ArrayLike, "*shape"]], tuple[Float[Array, "*shape"], Float[Array, "*shape"]]
]:
    """Widen the bounds of batch renormalization step by step, as in the paper.

    Args:
        warmup: number of updates of plain batch normalization.
        r_steps: the update at which the bound on the scale, which grows linearly from
            1, reaches `r_max`.
        d_steps: the update at which the bound on the offset, which grows linearly from
            0, reaches `d_max`.
        r_max: the final bound on the scale.
        d_max: the final bound on the offset.

    Returns:
        A function from the number of updates so far to `(r_max, d_max)`.

    Example:
        >>> limits = renorm_schedule(warmup=10, r_steps=30, d_steps=20)
        >>> [tuple(map(float, limits(step))) for step in (0, 20, 99)]
        [(1.0, 0.0), (2.0, 5.0), (3.0, 5.0)]
    """

    def limits(updates: ArrayLike) -> tuple[Array, Array]:
        since = jnp.asarray(updates, jnp.float32) - warmup
        r_part = jnp.clip(since / max(r_steps - warmup, 1), 0, 1)
        d_part = jnp.clip(since / max(d_steps - warmup, 1), 0, 1)
        return 1 + (r_max - 1) * r_part, d_max * d_part

    return limits
