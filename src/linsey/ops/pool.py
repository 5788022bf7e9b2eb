"""Pooling: a reduction over windows that slide along the spatial axes.

Arrays are channels last, `(*batch, *spatial, features)`, with any number of batch
axes, none included. Windows, strides and paddings name spatial axes only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.errors.layers import InvalidPaddingError, WindowShapeError
from linsey.ops.pool_gradient import Windows, max_of_windows, selects

PADDINGS = ("SAME", "VALID", "SAME_LOWER")


def pool(
    inputs: Array,
    init: Any,
    reduce_fn: Callable[[Any, Any], Any],
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    padding: str | int | Sequence[tuple[int, int]],
) -> Array:
    """Reduces each window of the spatial axes with a function of two values.

    Args:
        inputs: array of shape (*batch, *spatial, features).
        init: the value that `reduce_fn` starts from and that pads; its identity.
        reduce_fn: an associative function of two arrays, such as `jax.lax.max`.
        window_shape: size of the window, for each spatial axis.
        strides: distance between windows, for each spatial axis; none means 1.
        padding: 'SAME', 'VALID', 'SAME_LOWER', a number, or (low, high) pairs.

    Returns:
        Reduced windows, of shape (*batch, *positions, features).

    Raises:
        WindowShapeError: window, strides and input do not fit each other.
        InvalidPaddingError: the padding is none of these forms.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(4.0).reshape(1, 4, 1)
        >>> pool(x, 0.0, lax.add, (2,), (2,), "VALID").ravel().tolist()
        [1.0, 5.0]
    """
    window, steps, pads = _window(inputs.shape, window_shape, strides, padding)
    return lax.reduce_window(inputs, init, reduce_fn, window, steps, pads)


def max_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str | int | Sequence[tuple[int, int]] = "VALID",
) -> Array:
    """Takes the largest value of each window; see `pool` for the arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([3.0, 1.0, 2.0, 5.0]).reshape(1, 4, 1)
        >>> max_pool(x, (2,), strides=(2,)).ravel().tolist()
        [3.0, 5.0]
    """
    windows = Windows(*_window(inputs.shape, window_shape, strides, padding))
    if selects(inputs.dtype, windows):
        return max_of_windows(windows, inputs)
    return lax.reduce_window(inputs, _extremes(inputs.dtype)[0], lax.max, *windows)


def min_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str | int | Sequence[tuple[int, int]] = "VALID",
) -> Array:
    """Takes the smallest value of each window; see `pool` for the arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([3.0, 1.0, 2.0, 5.0]).reshape(1, 4, 1)
        >>> min_pool(x, (2,), strides=(2,)).ravel().tolist()
        [1.0, 2.0]
    """
    return pool(
        inputs, _extremes(inputs.dtype)[1], lax.min, window_shape, strides, padding
    )


def avg_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str | int | Sequence[tuple[int, int]] = "VALID",
    count_include_pad: bool = True,
) -> Array:
    """Takes the mean of each window; see `pool` for the other arguments.

    Args:
        inputs: array of shape (*batch, *spatial, features).
        window_shape: size of the window, for each spatial axis.
        strides: distance between windows, for each spatial axis; none means 1.
        padding: 'SAME', 'VALID', 'SAME_LOWER', a number, or (low, high) pairs.
        count_include_pad: divide by the size of the window everywhere; otherwise by
            the number of its entries that lie inside the input.

    Returns:
        Means, of shape (*batch, *positions, features).

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 3.0]).reshape(1, 2, 1)
        >>> avg_pool(x, (2,), padding=[(0, 1)]).ravel().tolist()
        [2.0, 1.5]
        >>> pads = [(0, 1)]
        >>> avg_pool(x, (2,), None, pads, count_include_pad=False).ravel().tolist()
        [2.0, 3.0]
    """
    total = pool(inputs, 0, lax.add, window_shape, strides, padding)
    if count_include_pad:
        return total / math.prod(window_shape)
    dtype = jnp.promote_types(total.dtype, jnp.float32)
    counts = _counts(inputs.shape, window_shape, strides, padding)
    return lax.div(lax.convert_element_type(total, dtype), counts.astype(dtype))


def _window(
    shape: Sequence[int],
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    padding: Any,
) -> tuple[tuple[int, ...], tuple[int, ...], Any]:
    """Extends window, strides and padding to all axes, after checking them."""
    if not isinstance(window_shape, Sequence):
        raise WindowShapeError("names no axes", window_shape, shape)
    rank = len(window_shape)
    batch = len(shape) - rank - 1
    if batch < 0:
        raise WindowShapeError("does not fit the input", window_shape, shape)
    steps = (1,) * rank if strides is None else strides
    if not isinstance(steps, Sequence) or len(steps) != rank:
        raise WindowShapeError(f"has strides {steps}", window_shape, shape)
    ones = (1,) * batch
    window = (*ones, *window_shape, 1)
    steps = (*ones, *steps, 1)
    if isinstance(padding, str):
        if padding.upper() not in PADDINGS:
            raise InvalidPaddingError(padding, rank, PADDINGS)
        pads = tuple(lax.padtype_to_pads(shape, window, steps, padding))
    else:
        pads = ((0, 0),) * batch + _pairs(padding, rank) + ((0, 0),)
    return window, steps, pads


def _pairs(padding: Any, rank: int) -> tuple[tuple[int, int], ...]:
    """Reads a number, or one (low, high) pair for each spatial axis."""
    if isinstance(padding, int):
        return ((padding, padding),) * rank
    try:
        pairs = tuple((low, high) for low, high in padding)
    except (TypeError, ValueError):
        pairs = ()
    if len(pairs) != rank:
        raise InvalidPaddingError(padding, rank, PADDINGS)
    return pairs


def _counts(
    shape: Sequence[int],
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    padding: Any,
) -> np.ndarray:
    """Counts entries inside the input for each window: (1, ..., *positions, 1).

    Shapes are static, so this is arithmetic of the trace and no part of the program.
    """
    window, steps, pads = _window(shape, window_shape, strides, padding)
    batch = len(shape) - len(window_shape) - 1
    counts = np.ones((1,) * batch, np.float32)
    for axis in range(batch, len(shape) - 1):
        size, width, (low, high) = shape[axis], window[axis], pads[axis]
        starts = np.arange(-low, size + high - width + 1, steps[axis])
        inside = np.minimum(starts + width, size) - np.maximum(starts, 0)
        counts = counts[..., None] * np.maximum(inside, 0).astype(np.float32)
    return counts[..., None]


def _extremes(dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gives the smallest and the largest value of a dtype, infinite where it can be."""
    if jnp.issubdtype(dtype, jnp.bool_):
        low, high = False, True
    elif jnp.issubdtype(dtype, jnp.inexact):
        low, high = -np.inf, np.inf
    else:
        low, high = jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
    return np.asarray(low, dtype), np.asarray(high, dtype)
