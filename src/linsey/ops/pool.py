"""Pooling: a reduction over windows that slide along the spatial axes.

Arrays are channels last, (*batch, *spatial, features), where batch axes may be missing.
Windows, strides and padding are given for the spatial axes only.

XLA computes the gradient of a maximum over windows by visiting one window after the
other, which is slow on a CPU (`benchmarks/conv.py`). There, the index of the largest
value in its window is found by comparing shifted copies, and the gradient is one
selection per copy. The index takes a byte per window, and is the only residual.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from linsey.errors.base import ArgumentTypeError, LinseyError, OptionError, ShapeError
from linsey.errors.layers import InvalidPaddingError
from linsey.ops.cpu.dispatch import has_static_shape, on_cpu
from linsey.ops.deferred import resolve
from linsey.ops.sharding import MeshAxis, leave_to_compiler, split_axes
from linsey.promotion import promote_types

if TYPE_CHECKING:
    from jaxtyping import Num, Shaped

PADDINGS = ("SAME", "VALID", "SAME_LOWER")
Padding = str | int | Sequence[tuple[int, int]]
LARGEST_WINDOW = 32


class Windows(NamedTuple):
    """Windows over all axes of an array; hashable, because they are static.

    Attributes:
        sizes: size of the window, for each axis.
        steps: distance between windows, for each axis.
        pads: entries added in front of and behind each axis.
    """

    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]


def pool(
    inputs: Shaped[Array, "*inputs features"],
    init: ArrayLike,
    reduce_fn: Callable[[Array, Array], Array],
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    padding: Padding,
) -> Shaped[Array, "*outputs features"]:
    """Reduce each window of the spatial axes with a function of two values.

    Args:
        inputs: array of shape (*batch, *spatial, features).
        init: the identity of `reduce_fn`, from which it starts and which is the
            padding.
        reduce_fn: an associative function of two arrays, such as `jax.lax.max`.
        window_shape: size of the window, for each spatial axis.
        strides: distance between windows, for each spatial axis. If `None`, it is 1.
        padding: 'SAME', 'VALID', 'SAME_LOWER', a number, or (low, high) pairs.

    Returns:
        Reduced windows, of shape (*batch, *output spatial shape, features).

    Raises:
        ArgumentTypeError: the window shape or the strides are not a sequence.
        ShapeError: the input has fewer axes than the window.
        OptionError: the number of strides is not that of the spatial axes.
        InvalidPaddingError: the padding has none of these forms.

    Example:
        >>> x = jnp.arange(4.0).reshape(1, 4, 1)
        >>> pool(x, 0.0, lax.add, (2,), (2,), "VALID").ravel().tolist()
        [1.0, 5.0]
    """
    inputs = resolve(inputs)
    windows = _windows(inputs.shape, window_shape, strides, padding)
    if whole := _split_spatially(inputs, len(window_shape)):
        reduce = partial(
            pool,
            init=init,
            reduce_fn=reduce_fn,
            window_shape=window_shape,
            strides=strides,
            padding=padding,
        )
        return leave_to_compiler(reduce, whole, inputs)
    return lax.reduce_window(inputs, init, reduce_fn, *windows)


def max_pool(
    inputs: Shaped[Array, "*inputs features"],
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Shaped[Array, "*outputs features"]:
    """Take the largest value of each window; see `pool` for the arguments.

    Example:
        >>> x = jnp.array([3.0, 1.0, 2.0, 5.0]).reshape(1, 4, 1)
        >>> max_pool(x, (2,), strides=(2,)).ravel().tolist()
        [3.0, 5.0]
    """
    inputs = resolve(inputs)
    windows = _windows(inputs.shape, window_shape, strides, padding)
    if whole := _split_spatially(inputs, len(window_shape)):
        largest = partial(
            max_pool, window_shape=window_shape, strides=strides, padding=padding
        )
        return leave_to_compiler(largest, whole, inputs)
    # On a CPU, selections give the faster gradient for small windows.
    small = math.prod(windows.sizes) <= LARGEST_WINDOW and has_static_shape(inputs)
    if small and jnp.issubdtype(inputs.dtype, jnp.floating) and on_cpu():
        return max_of_windows(windows, inputs)
    return lax.reduce_window(inputs, _extremes(inputs.dtype)[0], lax.max, *windows)


def min_pool(
    inputs: Shaped[Array, "*inputs features"],
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Shaped[Array, "*outputs features"]:
    """Take the smallest value of each window; see `pool` for the arguments.

    Example:
        >>> x = jnp.array([3.0, 1.0, 2.0, 5.0]).reshape(1, 4, 1)
        >>> min_pool(x, (2,), strides=(2,)).ravel().tolist()
        [1.0, 2.0]
    """
    return pool(
        inputs, _extremes(inputs.dtype)[1], lax.min, window_shape, strides, padding
    )


def avg_pool(
    inputs: Num[Array, "*inputs features"],
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Num[Array, "*outputs features"]:
    """Take the mean of each window; see `pool` for the other arguments.

    Args:
        inputs: array of shape (*batch, *spatial, features).
        window_shape: size of the window, for each spatial axis.
        strides: distance between windows, for each spatial axis. If `None`, it is 1.
        padding: 'SAME', 'VALID', 'SAME_LOWER', a number, or (low, high) pairs.
        count_include_pad: whether to divide by the size of the window everywhere,
            rather than by the number of its entries that lie inside the input.

    Returns:
        Means, of shape (*batch, *output spatial shape, features).

    Example:
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
    dtype = promote_types(total.dtype, jnp.float32)
    windows = _windows(inputs.shape, window_shape, strides, padding)
    if has_static_shape(total):
        counts = _counts(inputs.shape, len(window_shape), windows).astype(dtype)
    else:
        inside = lax.full_like(inputs, 1, dtype)
        counts = pool(inside, 0, lax.add, window_shape, strides, padding)
    return lax.div(lax.convert_element_type(total, dtype), counts)


# -- windows -------------------------------------------------------------------------


def _windows(
    shape: Sequence[int],
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    padding: Padding,
) -> Windows:
    """Extend window, strides and padding to all axes, after checking them."""

    def misfit(kind: type[LinseyError], problem: str) -> LinseyError:
        return kind(
            f"Pooling over a window of shape {window_shape} {problem}.",
            "There is one window size and one stride for each spatial axis; the input "
            f"has shape {tuple(shape)}, its last axis holds the features.",
            "For images write `window_shape=(2, 2), strides=(2, 2)`.",
        )

    if not isinstance(window_shape, Sequence):
        raise misfit(ArgumentTypeError, "names no axes")
    rank = len(window_shape)
    batch = len(shape) - rank - 1
    if batch < 0:
        raise misfit(ShapeError, "does not fit the input")
    steps = (1,) * rank if strides is None else strides
    if not isinstance(steps, Sequence):
        raise misfit(ArgumentTypeError, f"has strides {steps}")
    if len(steps) != rank:
        raise misfit(OptionError, f"has strides {steps}")
    ones = (1,) * batch
    window = (*ones, *window_shape, 1)
    steps = (*ones, *steps, 1)
    if isinstance(padding, str):
        if padding.upper() not in PADDINGS:
            raise InvalidPaddingError(padding, rank, PADDINGS)
        pads = tuple(lax.padtype_to_pads(shape, window, steps, padding))
    else:
        pads = ((0, 0),) * batch + _pairs(padding, rank) + ((0, 0),)
    return Windows(window, steps, pads)


def _split_spatially(inputs: Array, rank: int) -> tuple[MeshAxis, ...] | None:
    """Return the mesh axes of all but the spatial axes if one of these is sharded."""
    axes = split_axes(inputs)
    spatial = slice(-rank - 1, -1)
    if not any(axes[spatial]):
        return None
    return (*axes[: -rank - 1], *[None] * rank, axes[-1])


def _pairs(
    padding: int | Sequence[tuple[int, int]], rank: int
) -> tuple[tuple[int, int], ...]:
    """Turn a number or pairs into one (low, high) pair for each spatial axis."""
    if isinstance(padding, int):
        return ((padding, padding),) * rank
    try:
        pairs = tuple((low, high) for low, high in padding)
    except (TypeError, ValueError):
        pairs = ()
    if len(pairs) != rank:
        raise InvalidPaddingError(padding, rank, PADDINGS)
    return pairs


def _counts(shape: Sequence[int], rank: int, windows: Windows) -> np.ndarray:
    """Count the entries of each window that lie inside the input.

    Shapes are static, so this is computed at trace time, outside of the program.

    Returns:
        An array of shape (1, ..., *output spatial shape, 1).
    """
    batch = len(shape) - rank - 1
    counts = np.ones((1,) * batch, np.float32)
    for axis in range(batch, len(shape) - 1):
        size, width, step = shape[axis], windows.sizes[axis], windows.steps[axis]
        low, high = windows.pads[axis]
        starts = np.arange(-low, size + high - width + 1, step)
        inside = np.minimum(starts + width, size) - np.maximum(starts, 0)
        counts = counts[..., None] * np.maximum(inside, 0).astype(np.float32)
    return counts[..., None]


def _extremes(dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value of a dtype, infinite if possible."""
    if jnp.issubdtype(dtype, jnp.bool_):
        low, high = False, True
    elif jnp.issubdtype(dtype, jnp.inexact):
        low, high = -np.inf, np.inf
    else:
        low, high = jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
    return np.asarray(low, dtype), np.asarray(high, dtype)


# -- the gradient of the maximum -----------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def max_of_windows(windows: Windows, x: Array) -> Array:
    """Take the largest value of each window; padding is never the largest.

    If values tie, the first one in the window gets the gradient.

    Args:
        windows: which values belong together.
        x: array of floating-point numbers.

    Returns:
        The largest values, one for each window.

    Example:
        >>> x = jnp.array([3.0, 1.0, 5.0, 5.0])
        >>> windows = Windows((2,), (2,), ((0, 0),))
        >>> max_of_windows(windows, x).tolist()
        [3.0, 5.0]
        >>> jax.grad(lambda x: max_of_windows(windows, x).sum())(x).tolist()
        [1.0, 0.0, 1.0, 0.0]
    """
    return lax.reduce_window(x, np.asarray(-np.inf, x.dtype), lax.max, *windows)


@max_of_windows.defjvp
def _max_of_windows_jvp(
    windows: Windows, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    return max_of_windows(windows, x), _select(windows, _argmax(windows, x), dx)


def _argmax(windows: Windows, x: Array) -> Array:
    """Return the index of the first largest value in each window."""
    first, *others = _members(windows, x, -np.inf)
    indices, largest = lax.full_like(first, 0, jnp.int8), first
    for index, values in enumerate(others, start=1):
        larger = lax.gt(values, largest)
        indices = lax.select(larger, lax.full_like(indices, index), indices)
        largest = lax.select(larger, values, largest)
    return indices


@partial(jax.checkpoint, prevent_cse=False, static_argnums=0)
def _select(windows: Windows, indices: Array, dx: Array) -> Array:
    """Pick the values at the indices; a checkpoint, so that only indices are kept."""
    zero = lax.full_like(indices, 0, dx.dtype)
    picked = zero
    for index, values in enumerate(_members(windows, dx, 0)):
        here = lax.eq(indices, lax.full_like(indices, index))
        picked = lax.add(picked, lax.select(here, values, zero))
    return picked


def _members(windows: Windows, x: Array, fill: float) -> list[Array]:
    """List the first values of all windows, then the second ones, and so on."""
    sizes, steps, pads = windows
    if any(map(any, pads)):
        pad = [(low, high, 0) for low, high in pads]
        x = lax.pad(x, np.asarray(fill, x.dtype), pad)
    spans = [
        (length - size) // step * step + 1
        for length, size, step in zip(x.shape, sizes, steps, strict=True)
    ]
    return [
        lax.slice(x, start, [s + n for s, n in zip(start, spans, strict=True)], steps)
        for start in itertools.product(*map(range, sizes))
    ]
