"""Groups of a batch that are normalized apart, whatever devices hold them.

A batch of `n` examples is divided into `ceil(n / size)` *groups* of neighbours, as
equal as can be: their sizes differ by one at most. Neighbours, because those lie on one
device where the batch is sharded. Where a group is larger than what one entry of a
named axis holds, it spans several of them.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.named_axes import Groups


def split_examples(
    x: Array, weights: Array | None, size: int
) -> tuple[Array, Array | None, np.ndarray | None]:
    """Divides the first axis into groups of at most some size.

    Args:
        x: array of shape (batch, ...).
        weights: mask or weights of the rank of `x`, or none.
        size: the largest size of a group, at least 1.

    Returns:
        An array of shape (groups, largest group, ...); its weights, which are zero
        where a group has no such example; and the places of the examples in it, none
        if they are in order.

    Example:
        >>> parts, weights, places = split_examples(jnp.arange(5)[:, None], None, 2)
        >>> parts[..., 0].tolist(), weights[..., 0].astype(int).tolist()
        ([[0, 1], [2, 3], [4, 4]], [[1, 1], [1, 1], [1, 0]])
        >>> join_examples(parts, places)[:, 0].tolist()
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
    present = np.arange(largest) < sizes[:, None]  # (groups, largest)
    rows = np.minimum(starts[:, None] + np.arange(largest), batch - 1)
    kept = jnp.asarray(present.reshape(*present.shape, *[1] * (x.ndim - 1)))
    if weights is not None:
        at_rows = np.zeros_like(rows) if weights.shape[0] == 1 else rows
        taken = weights[at_rows]
        kept = kept & taken if weights.dtype == bool else jnp.where(kept, taken, 0)
    return x[rows], kept, np.flatnonzero(present)


def join_examples(y: Array, places: np.ndarray | None) -> Array:
    """Undoes `split_examples`."""
    flat = lax.reshape(y, (y.shape[0] * y.shape[1], *y.shape[2:]))
    return flat if places is None else flat[places]


def shard_groups(shards: int, examples: int, size: int) -> Groups | None:
    """Groups neighbouring shards, so that a group holds at most `size` examples.

    Args:
        shards: number of entries of the named axis.
        examples: number of examples that each holds.
        size: the largest size of a group.

    Returns:
        Equally many indices for each group; none if every shard stands alone.

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
