"""Axes of variables: which axis of which collection a transform maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.typing import ArrayLike

from linsey import errors
from linsey.core.axes_scan import broadcast, flatten_axes
from linsey.core.lift.split import Groups
from linsey.typing import In, Out


def split_in_out(axes: Mapping[Any, object]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return the axes of the collections that go in, and of those that come out."""
    bare = {col: getattr(axis, "axis", axis) for col, axis in axes.items()}
    into = {col: bare[col] for col, axis in axes.items() if not isinstance(axis, Out)}
    out = {col: bare[col] for col, axis in axes.items() if not isinstance(axis, In)}
    return into, out


def axis_length(*parts: tuple[object, object]) -> int | None:
    """Return the length of the mapped axes of `(axes, tree)` pairs, `None` without any.

    Raises:
        ShapeError: the lengths differ.
    """
    found: dict[int, tuple[int, ...]] = {}
    for axes, tree in parts:
        leaves = jax.tree_util.tree_leaves(tree)
        for axis, leaf in zip(flatten_axes(axes, tree), leaves, strict=True):
            if axis is not None and axis is not broadcast:
                found.setdefault(leaf.shape[axis], leaf.shape)
    if len(found) > 1:
        raise errors.ShapeError(
            f"Inconsistent batch axis sizes: {set(found)}, in arrays of the shapes"
            f" {sorted(found.values())}.",
            "Mapped axes are walked through together, so they must have one length.",
            "Pass inputs of one length, or give what is shared the axis `None`.",
        )
    return next(iter(found), None)


def split_keys(groups: Groups, is_split: Sequence[bool], length: int) -> Groups:
    """Split the keys of the streams that are to differ along the axis."""
    return _map_keys(lambda key: jax.random.split(key, length), groups, is_split)


def fold_keys(groups: Groups, is_split: Sequence[bool], index: ArrayLike) -> Groups:
    """Fold a step index into the keys of the streams that are to differ."""
    return _map_keys(lambda key: jax.random.fold_in(key, index), groups, is_split)


def _map_keys(
    fn: Callable[[jax.Array], jax.Array], groups: Groups, is_split: Sequence[bool]
) -> Groups:
    return tuple(
        jax.tree_util.tree_map(fn, group) if wanted else group
        for group, wanted in zip(groups, is_split, strict=True)
    )


def rename_axes(
    change: Callable[..., Any],
    groups: Groups,
    axes: Sequence[object],
    params: Mapping[Any, Any],
) -> Groups:
    """Change the metadata of variables by `meta.add_axis` or `meta.remove_axis`."""
    return tuple(
        change(group, axis, params) if isinstance(axis, int) else group
        for group, axis in zip(groups, axes, strict=True)
    )
