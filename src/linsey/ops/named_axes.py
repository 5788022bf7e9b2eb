"""Sums and gathers over named axes, whatever transform has bound the names.

A *shard* is one entry of a named axis: one device under `jax.pmap` and
`jax.shard_map`, one example under `jax.vmap`. The collectives of JAX differ between
these: under `shard_map` a gathered value counts as equal on all shards only if that
is asked for, `vmap` gathers one name at a time and knows no groups. Here they are one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Names = tuple[Any, ...]
Groups = tuple[tuple[int, ...], ...]


def as_names(axis_name: Any) -> Names:
    """Lists one name, several names or none.

    Example:
        >>> as_names(None), as_names("batch"), as_names(["row", "column"])
        ((), ('batch',), ('row', 'column'))
    """
    if axis_name is None:
        return ()
    return tuple(axis_name) if isinstance(axis_name, (tuple, list)) else (axis_name,)


def as_groups(axis_index_groups: Iterable[Sequence[int]] | None) -> Groups | None:
    """Makes groups of shards hashable.

    Example:
        >>> as_groups([[0, 1], [2, 3]])
        ((0, 1), (2, 3))
    """
    if axis_index_groups is None:
        return None
    return tuple(tuple(map(int, group)) for group in axis_index_groups)


def shard_count(names: Names, groups: Groups | None = None) -> int:
    """Counts the shards that a collective over `names` combines.

    Args:
        names: bound names of axes.
        groups: indices of the shards that are combined, equally many in each group.

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


def sum_shards(tree: Any, names: Names, groups: Groups | None = None) -> Any:
    """Adds the values of all shards: one collective for the whole tree.

    It is linear and can be transposed, so that it may stand in a derivative rule.

    Args:
        tree: arrays, equally shaped on all shards.
        names: bound names of axes.
        groups: indices of the shards that are added.

    Returns:
        The sums, the same on all shards (of a group).

    Example:
        >>> jax.vmap(lambda x: sum_shards(x, ("i",)), axis_name="i")(jnp.arange(3.0))
        Array([3., 3., 3.], dtype=float32)
    """
    if groups is not None:
        # `psum` does not take groups under a `shard_map` that checks replication.
        return jax.tree.map(
            lambda x: lax.reduce_sum(gather_shards(x, names, groups), (0,)), tree
        )
    # JAX refuses names of a mesh and of a `vmap` in one collective.
    manual, mapped = _split(names)
    if mapped:
        tree = lax.psum(tree, mapped)
    return lax.psum(tree, manual) if manual else tree


def gather_shards(x: Array, names: Names, groups: Groups | None = None) -> Array:
    """Stacks the values of all shards along a new first axis: one collective.

    Args:
        x: array, equally shaped on all shards.
        names: bound names of axes.
        groups: indices of the shards that are stacked.

    Returns:
        An array of shape (shards, *x.shape), known to be the same on all shards
        where JAX tracks that and there are no groups.

    Example:
        >>> gather = jax.vmap(lambda x: gather_shards(x, ("i",)), axis_name="i")
        >>> gather(jnp.arange(2.0)).tolist()
        [[0.0, 1.0], [0.0, 1.0]]
    """
    manual, mapped = _split(names)
    if groups is not None:
        (name,) = names
        if manual:
            return lax.all_gather(x, name, axis_index_groups=groups)
        # `vmap` knows no groups.
        return lax.all_gather(x, name)[_own_group(name, groups)]
    shape = x.shape
    for name in mapped:
        x = lax.all_gather(x, name)
    if manual:
        x = lax.all_gather(x, manual, to="invarying")
    return lax.reshape(x, (shard_count(names), *shape))


def _own_group(name: Any, groups: Groups) -> Array:
    """Lists the shards of the group that this one is in."""
    table = np.zeros((sum(map(len, groups)), len(groups[0])), np.int32)
    for group in groups:
        table[list(group)] = group
    return jnp.asarray(table)[lax.axis_index(name)]


def _split(names: Names) -> tuple[Names, Names]:
    """Tells names that a mesh has bound from names of `vmap`, in that order."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    return (
        tuple(name for name in names if name in manual),
        tuple(name for name in names if name not in manual),
    )
