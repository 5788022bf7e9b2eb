"""Axes of arrays, and the named axes that a transform maps over.

An axis of an array is a number. All axes are static, so that a broadcast is one
equation. Values *per channel* have the shape of the axes that a reduction keeps.

A *named axis* is bound by a transform. A *shard* is one entry of it: one device under
`jax.pmap` and `jax.shard_map`, one example under `jax.vmap`. The collectives of JAX
differ between these: under `shard_map` a gathered value counts as equal on all shards
only on request; `vmap` gathers one name at a time and does not take groups. This module
hides the differences.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from linsey.errors.base import ShapeError

AxisNames = Hashable | Sequence[Hashable]
Names = tuple[Hashable, ...]
Groups = tuple[tuple[int, ...], ...]
Tree = TypeVar("Tree")


# --- axes of arrays -------------------------------------------------------------------


def canonical_axes(axes: int | Iterable[int], rank: int) -> tuple[int, ...]:
    """Number axes from the front, without duplicates, in ascending order.

    Args:
        axes: an axis or several; negative ones count from the end.
        rank: number of axes of the array.

    Returns:
        The axes, in [0, rank).

    Raises:
        ShapeError: an axis is not in [-rank, rank).

    Example:
        >>> canonical_axes((-1, 1), 4)
        (1, 3)
    """
    if isinstance(axes, int):
        axes = (axes,)
    found = set()
    for axis in axes:
        if not -rank <= axis < rank:
            raise ShapeError(
                f"Axis {axis} was given for an array of rank {rank}.",
                f"Its axes are those in [-{rank}, {rank}).",
                "Pass one of these, or an array with more axes.",
            )
        found.add(axis % rank)
    return tuple(sorted(found))


def other_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """List the axes that are not among `axes`.

    Example:
        >>> other_axes((1,), 3)
        (0, 2)
    """
    return tuple(axis for axis in range(rank) if axis not in axes)


def broadcast_kept(
    values: Array, shape: tuple[int, ...], reduced: Sequence[int]
) -> Array:
    """Repeat values along the axes that a reduction has removed.

    Args:
        values: array of the shape of the axes of `shape` that are kept.
        shape: the shape of the result.
        reduced: the axes along which the values repeat.

    Returns:
        An array of that shape.

    Example:
        >>> broadcast_kept(jnp.array([1, 2]), (3, 2), (0,)).tolist()
        [[1, 2], [1, 2], [1, 2]]
    """
    return lax.broadcast_in_dim(values, shape, other_axes(reduced, len(shape)))


def broadcast_all(values: Array, shape: tuple[int, ...]) -> Array:
    """Repeat values of the same rank along their axes of size 1.

    Example:
        >>> broadcast_all(jnp.array([[1], [2]]), (2, 2)).tolist()
        [[1, 1], [2, 2]]
    """
    return lax.broadcast_in_dim(values, shape, range(len(shape)))


def expand_rank(weights: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Give a mask or weights the rank of the shape that they broadcast to.

    Args:
        weights: array whose axes are the last ones of `shape`, or of size 1.
        shape: the shape of the array to be weighted.

    Returns:
        The array with leading axes of size 1.

    Raises:
        ShapeError: it does not broadcast to `shape`.

    Example:
        >>> expand_rank(jnp.ones((4, 1)), (2, 4, 3)).shape
        (1, 4, 1)
    """
    weights = jnp.asarray(weights)
    missing = len(shape) - weights.ndim
    aligned = zip(weights.shape, shape[max(missing, 0) :], strict=False)
    if missing < 0 or any(size not in (1, whole) for size, whole in aligned):
        raise ShapeError(
            f"A mask or weights of shape {weights.shape} do not broadcast to the shape "
            f"{shape} of the input.",
            "Axes are aligned from the last one, and each must be as long as that of "
            "the input, or 1 where one weight serves all entries along it.",
            f"Pass one weight for each entry, of shape {shape}, or one for each "
            f"example, of shape {(*shape[:1], *[1] * (len(shape) - 1))}.",
        )
    return lax.expand_dims(weights, range(missing))


# --- named axes -----------------------------------------------------------------------


def as_names(axis_name: AxisNames | None) -> Names:
    """Return one name, several or `None` as a tuple of names.

    Example:
        >>> as_names(None), as_names("batch"), as_names(["row", "column"])
        ((), ('batch',), ('row', 'column'))
    """
    if axis_name is None:
        return ()
    return tuple(axis_name) if isinstance(axis_name, (tuple, list)) else (axis_name,)


def as_groups(axis_index_groups: Iterable[Sequence[int]] | None) -> Groups | None:
    """Make groups of shards hashable.

    Example:
        >>> as_groups([[0, 1], [2, 3]])
        ((0, 1), (2, 3))
    """
    if axis_index_groups is None:
        return None
    return tuple(tuple(map(int, group)) for group in axis_index_groups)


def shard_count(names: Names, groups: Groups | None = None) -> int:
    """Count the shards that a collective over `names` combines.

    Args:
        names: bound names of axes.
        groups: indices of the shards that are combined, in groups of equal size.

    Returns:
        The number of shards, 1 without names.

    Raises:
        NameError: a name is not bound.

    Example:
        >>> jax.vmap(lambda x: x * shard_count(("i",)), axis_name="i")(jnp.ones(3))
        Array([3., 3., 3.], dtype=float32)
    """
    if groups is not None:
        return len(groups[0])
    return math.prod(lax.axis_size(name) for name in names)


def sum_shards(tree: Tree, names: Names, groups: Groups | None = None) -> Tree:
    """Add the values of all shards, with one collective for the whole tree.

    The sum is linear and can be transposed, so it may be used in a derivative rule.

    Args:
        tree: arrays, of the same shapes on all shards.
        names: bound names of axes.
        groups: indices of the shards that are added.

    Returns:
        The sums, the same on all shards (of a group).

    Example:
        >>> jax.vmap(lambda x: sum_shards(x, ("i",)), axis_name="i")(jnp.arange(3.0))
        Array([3., 3., 3.], dtype=float32)
    """
    manual, mapped = split_names(names)
    if groups is not None:
        return _sum_groups(tree, names[0], groups, is_mapped=bool(mapped))
    # JAX 0.10 raises AssertionError if a collective mixes axes of a mesh and of `vmap`.
    if mapped:
        tree = lax.psum(tree, mapped)
    return lax.psum(tree, manual) if manual else tree


def gather_shards(x: Array, names: Names, groups: Groups | None = None) -> Array:
    """Stack the values of all shards along a new first axis, with one collective.

    Args:
        x: array, of the same shape on all shards.
        names: bound names of axes.
        groups: indices of the shards that are stacked.

    Returns:
        An array of shape (shards, *x.shape), known to be the same on all shards
        where JAX tracks that and `groups` is `None`.

    Example:
        >>> gather = jax.vmap(lambda x: gather_shards(x, ("i",)), axis_name="i")
        >>> gather(jnp.arange(2.0)).tolist()
        [[0.0, 1.0], [0.0, 1.0]]
    """
    manual, mapped = split_names(names)
    if groups is not None:
        (name,) = names
        if manual:
            return lax.all_gather(x, name, axis_index_groups=groups)
        # `vmap` does not take groups.
        return lax.all_gather(x, name)[_own_group(name, groups)]
    shape = x.shape
    for name in mapped:
        x = lax.all_gather(x, name)
    if manual:
        x = lax.all_gather(x, manual, to="invarying")
    return lax.reshape(x, (shard_count(names), *shape))


def _sum_groups(tree: Tree, name: Hashable, groups: Groups, is_mapped: bool) -> Tree:
    """Add the values of the shards of each group."""
    if is_mapped:  # `vmap` does not take groups
        return jax.tree.map(
            lambda x: lax.reduce_sum(gather_shards(x, (name,), groups), (0,)), tree
        )
    try:
        return lax.psum(tree, name, axis_index_groups=groups)
    except NotImplementedError:  # under a `shard_map` that checks replication
        flat, unravel = ravel_pytree(tree)
    size = flat.shape[0]
    flat = lax.pad(flat, np.zeros((), flat.dtype), [(0, -size % len(groups[0]), 0)])
    options = {"axis_index_groups": groups, "tiled": True}
    part = lax.psum_scatter(flat, name, **options)
    return unravel(lax.all_gather(part, name, **options)[:size])


def _own_group(name: Hashable, groups: Groups) -> Array:
    """Return the indices of the shards in the group of the current one."""
    table = np.zeros((sum(map(len, groups)), len(groups[0])), np.int32)
    for group in groups:
        table[list(group)] = group
    return jnp.asarray(table)[lax.axis_index(name)]


def split_names(names: Names) -> tuple[Names, Names]:
    """Separate the names bound by a mesh (first) from the names bound by `vmap`.

    Example:
        >>> split_names(("i",))  # outside of `jax.shard_map`
        ((), ('i',))
    """
    manual = jax.sharding.get_abstract_mesh().manual_axes
    return (
        tuple(name for name in names if name in manual),
        tuple(name for name in names if name not in manual),
    )
