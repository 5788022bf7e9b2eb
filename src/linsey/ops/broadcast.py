"""Axes that are reduced, and values per channel put back along them.

Values *per channel* have the shape of the axes that a reduction keeps. Everything here
is static: an axis is counted once, and a broadcast is one equation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax


def canonical_axes(axes: int | Iterable[int], rank: int) -> tuple[int, ...]:
    """Counts axes from the front, each once, in ascending order.

    Args:
        axes: an axis or several; negative ones count from the end.
        rank: number of axes there are.

    Returns:
        The axes, in [0, rank).

    Raises:
        IndexError: an axis is not in [-rank, rank).

    Example:
        >>> canonical_axes((-1, 1), 4)
        (1, 3)
    """
    if isinstance(axes, int):
        axes = (axes,)
    found = set()
    for axis in axes:
        if not -rank <= axis < rank:
            raise IndexError(f"Axis {axis} is not one of the {rank} axes of the array.")
        found.add(axis % rank)
    return tuple(sorted(found))


def other_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Lists the axes that are not among `axes`.

    Example:
        >>> other_axes((1,), 3)
        (0, 2)
    """
    return tuple(axis for axis in range(rank) if axis not in axes)


def broadcast_kept(
    values: Array, shape: tuple[int, ...], reduced: Sequence[int]
) -> Array:
    """Repeats values along the axes that a reduction has removed.

    Args:
        values: array of the shape of the axes of `shape` that are kept.
        shape: the shape to reach.
        reduced: the axes along which the values repeat.

    Returns:
        An array of that shape.

    Example:
        >>> broadcast_kept(jnp.array([1, 2]), (3, 2), (0,)).tolist()
        [[1, 2], [1, 2], [1, 2]]
    """
    return lax.broadcast_in_dim(values, shape, other_axes(reduced, len(shape)))


def broadcast_all(values: Array, shape: tuple[int, ...]) -> Array:
    """Repeats values of the same rank along their axes of size 1.

    Example:
        >>> broadcast_all(jnp.array([[1], [2]]), (2, 2)).tolist()
        [[1, 1], [2, 2]]
    """
    return lax.broadcast_in_dim(values, shape, range(len(shape)))


def expand_rank(values: Any, shape: tuple[int, ...]) -> Array:
    """Gives an array the rank of a shape that it broadcasts to.

    Args:
        values: array whose axes are the last ones of `shape`, or of size 1.
        shape: the shape to agree with.

    Returns:
        The array with leading axes of size 1.

    Raises:
        ValueError: it does not broadcast to `shape`.

    Example:
        >>> expand_rank(jnp.ones((4, 1)), (2, 4, 3)).shape
        (1, 4, 1)
    """
    values = jnp.asarray(values)
    if jnp.broadcast_shapes(values.shape, shape) != shape:
        raise ValueError(
            f"An array of shape {values.shape} does not broadcast to {shape}."
        )
    return lax.expand_dims(values, range(len(shape) - values.ndim))
