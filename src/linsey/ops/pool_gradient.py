"""The largest value of each window, with a derivative made of selections.

XLA computes the gradient of a maximum over windows by visiting one window after the
other, which on a CPU takes thirty times as long as the maximum itself. Here the *place*
of the largest value, its number in the window, is found by comparing shifted copies,
and the gradient is as many selections. The place is a byte per window, and all that
reverse mode keeps.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.cpu.dispatch import on_cpu

LARGEST_WINDOW = 32


class Windows(NamedTuple):
    """Windows over all axes of an array; hashable, for they are static.

    Attributes:
        sizes: size of the window, for each axis.
        steps: distance between windows, for each axis.
        pads: entries added in front of and behind each axis.
    """

    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]


def selects(dtype: Any, windows: Windows) -> bool:
    """Says whether selections are the faster gradient: on a CPU, for small windows.

    Example:
        >>> windows = Windows((1, 2, 1), (1, 2, 1), ((0, 0),) * 3)
        >>> selects(jnp.float32, windows), selects(jnp.int32, windows)
        (True, False)
    """
    return (
        math.prod(windows.sizes) <= LARGEST_WINDOW
        and jnp.issubdtype(dtype, jnp.floating)
        and on_cpu()
    )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def max_of_windows(windows: Windows, x: Array) -> Array:
    """Takes the largest value of each window; padding is never the largest.

    Where values tie, the first one of the window has the derivative.

    Args:
        windows: which values belong together.
        x: array of floating point.

    Returns:
        The largest values, of the shape of the positions of the window.

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
    return max_of_windows(windows, x), _select(windows, _places(windows, x), dx)


def _places(windows: Windows, x: Array) -> Array:
    """Finds the number of the first largest value in each window."""
    first, *others = _members(windows, x, -np.inf)
    places, largest = lax.full_like(first, 0, jnp.int8), first
    for number, values in enumerate(others, start=1):
        larger = lax.gt(values, largest)
        places = lax.select(larger, lax.full_like(places, number), places)
        largest = lax.select(larger, values, largest)
    return places


@partial(jax.checkpoint, prevent_cse=False, static_argnums=0)
def _select(windows: Windows, places: Array, dx: Array) -> Array:
    """Picks the values at the places; a checkpoint, so that only these are kept."""
    zero = lax.full_like(places, 0, dx.dtype)
    picked = zero
    for number, values in enumerate(_members(windows, dx, 0)):
        here = lax.eq(places, lax.full_like(places, number))
        picked = lax.add(picked, lax.select(here, values, zero))
    return picked


def _members(windows: Windows, x: Array, fill: float) -> list[Array]:
    """Lists the first values of all windows, then the second ones, and so on."""
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
