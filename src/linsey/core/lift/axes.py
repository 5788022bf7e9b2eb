"""Axes of variables: which axis of which collection a transform maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from linsey.core import meta
from linsey.core.axes_scan import broadcast, flatten_axes
from linsey.core.lift.split import Groups
from linsey.typing import In, Out

Axes = Mapping[Any, Any]


def split_in_out(axes: Axes) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The axes of the collections that go in, and of those that come out."""
    bare = {col: getattr(axis, "axis", axis) for col, axis in axes.items()}
    into = {col: bare[col] for col, axis in axes.items() if not isinstance(axis, Out)}
    out = {col: bare[col] for col, axis in axes.items() if not isinstance(axis, In)}
    return into, out


def axis_length(*parts: tuple[Any, Any]) -> int | None:
    """The length of the mapped axes of `(axes, tree)` pairs; None if nothing is mapped.

    Raises:
        ValueError: the lengths differ.
    """
    found: dict[int, tuple[int, ...]] = {}
    for axes, tree in parts:
        leaves = jax.tree_util.tree_leaves(tree)
        for axis, leaf in zip(flatten_axes(axes, tree), leaves, strict=True):
            if axis is not None and axis is not broadcast:
                found.setdefault(leaf.shape[axis], leaf.shape)
    if len(found) > 1:
        raise ValueError(
            f"Inconsistent batch axis sizes: {set(found)}. All mapped inputs must have"
            f" one length; shapes with these: {sorted(found.values())}."
        )
    return next(iter(found), None)


def split_keys(groups: Groups, is_split: Sequence[bool], length: int) -> Groups:
    """Splits the keys of the streams that are to differ along the axis."""
    return _map_keys(lambda key: jax.random.split(key, length), groups, is_split)


def fold_keys(groups: Groups, is_split: Sequence[bool], index: Any) -> Groups:
    """Folds a step index into the keys of the streams that are to differ."""
    return _map_keys(lambda key: jax.random.fold_in(key, index), groups, is_split)


def _map_keys(
    fn: Callable[[Any], Any], groups: Groups, is_split: Sequence[bool]
) -> Groups:
    return tuple(
        jax.tree_util.tree_map(fn, group) if wanted else group
        for group, wanted in zip(groups, is_split, strict=True)
    )


def drop_axis_names(groups: Any, axes: Sequence[Any], params: Any) -> Any:
    """Removes the mapped axis from the metadata of variables that go in."""
    return tuple(
        meta.remove_axis(group, axis, params) if isinstance(axis, int) else group
        for group, axis in zip(groups, axes, strict=True)
    )


def add_axis_names(groups: Any, axes: Sequence[Any], params: Any) -> Any:
    """Adds the mapped axis to the metadata of variables that come out."""
    return tuple(
        meta.add_axis(group, axis, params) if isinstance(axis, int) else group
        for group, axis in zip(groups, axes, strict=True)
    )
