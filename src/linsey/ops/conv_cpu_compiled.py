"""Convolutions by kernels of our own, on a CPU.

Two operations, each linear in both of its arguments: the convolution, and the gradient
of its kernel. The gradient of the input is a convolution too, so that all derivatives
of any order are these two.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.interpreters import ad

from linsey.errors.layers import OperandShapeError
from linsey.ops.compiled import usable
from linsey.ops.primitives import call_kernel, define

LARGE_WORK = 2**21  # multiplications; less is not worth a call
BAND = 2**16  # floats of the input that a thread copies, so that they stay in its cache

Pair = tuple[int, ...]  # for rows and columns


class Window(NamedTuple):
    """How a window of two axes moves over an image; hashable, for it is static.

    Attributes:
        size: rows and columns of the window.
        strides: distances between windows.
        margins: (low, high) pairs of zeros, or of what is cut off if negative.
        holes: distances between the entries of the image.
        dilation: distances between the entries of the window.
        groups: number of groups of channels that do not mix.

    Example:
        >>> window = Window((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)
        >>> window.positions((8, 9))
        (4, 5)
        >>> window.transpose((8, 9), (4, 5)).margins
        ((1, 2), (1, 1))
    """

    size: Pair
    strides: Pair
    margins: tuple[tuple[int, int], ...]
    holes: Pair
    dilation: Pair
    groups: int

    def positions(self, image: tuple[int, ...]) -> Pair:
        """Counts the positions of the window on an image of rows and columns."""
        return tuple(
            ((n - 1) * hole + low + high - (size - 1) * step) // stride + 1
            for n, size, stride, (low, high), hole, step in zip(
                image,
                self.size,
                self.strides,
                self.margins,
                self.holes,
                self.dilation,
                strict=True,
            )
        )

    def transpose(self, image: tuple[int, ...], positions: tuple[int, ...]) -> Window:
        """The window that takes the gradient of the output to that of the image."""
        margins = []
        for i in range(2):
            reach = (self.size[i] - 1) * self.dilation[i]
            low = reach - self.margins[i][0]
            wide = (image[i] - 1) * self.holes[i]
            margins.append(
                (low, wide - (positions[i] - 1) * self.strides[i] + reach - low)
            )
        return self._replace(
            strides=self.holes, holes=self.strides, margins=tuple(margins)
        )


def takes(
    x: tuple[int, ...], kernel: tuple[int, ...], dtype: Any, window: Window
) -> bool:
    """Says whether a convolution is best computed here.

    Args:
        x: shape of the inputs, (batch, rows, columns, channels).
        kernel: shape of the weights, (rows, columns, channels // groups, features).
        dtype: dtype of both.
        window: how the window moves.

    Example:
        >>> window = Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)
        >>> takes((1, 8, 8, 1), (3, 3, 1, 16), jnp.float32, window)  # too small
        False
    """
    if dtype != jnp.float32 or not usable():
        return False
    rows, columns = window.positions(x[1:3])
    if min(rows, columns, *x, *kernel) <= 0:
        return False
    work = x[0] * rows * columns * math.prod(kernel)
    return work >= LARGE_WORK and _fills_lanes(kernel[-1], window)


def _fills_lanes(features: int, window: Window) -> bool:
    """Says whether the features of each group fill vectors, as the kernels need."""
    return features % (window.groups * _fewest_lanes()) == 0


@cache
def _fewest_lanes() -> int:
    from linsey.ops.compiled.vectors import LANES

    return LANES // 2


def convolve(x: Array, kernel: Array, window: Window) -> Array:
    """Computes a convolution of channels-last arrays that `takes` said yes to.

    Args:
        x: inputs of shape (batch, rows, columns, channels).
        kernel: weights of shape (rows, columns, channels // groups, features).
        window: how the window moves.

    Returns:
        Outputs of shape (batch, rows, columns, features).

    Raises:
        OperandShapeError: the arrays do not fit each other or the window.

    Example:
        >>> window = Window((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1)
        >>> convolve(jnp.full((1, 2, 2, 1), 3.0), jnp.ones((1, 1, 1, 32)), window).shape
        (1, 2, 2, 32)
    """
    return _bind_convolution(x, kernel, window=window)[0]


def convolve_with_holes(x: Array, kernel: Array, window: Window) -> Array:
    """Computes any convolution, by kernels where they serve.

    Where zeros lie between the entries of the image, most products are with zeros. A
    row of the output whose number leaves the rest `a` on division by the distance of
    the entries meets every so many rows of the kernel only; for each rest, of rows and
    of columns, this is a convolution without zeros in between.

    Args:
        x: inputs of shape (batch, rows, columns, channels).
        kernel: weights of shape (rows, columns, channels // groups, features).
        window: how the window moves.

    Returns:
        Outputs of shape (batch, rows, columns, features).

    Example:
        >>> window = Window((2, 2), (1, 1), ((1, 1), (1, 1)), (2, 2), (1, 1), 1)
        >>> x, kernel = jnp.ones((1, 3, 4, 2)), jnp.ones((2, 2, 2, 8))
        >>> convolve_with_holes(x, kernel, window).shape
        (1, 6, 8, 8)
    """
    holes = window.holes
    if holes == (1, 1) or window.strides != (1, 1) or window.dilation != (1, 1):
        if takes(x.shape, kernel.shape, x.dtype, window):
            return convolve(x, kernel, window)
        return _definition(x, kernel, window=window)[0]
    rows, columns = window.positions(x.shape[1:3])
    counts = -(-rows // holes[0]), -(-columns // holes[1])
    parts = []
    for rests in itertools.product(*map(range, holes)):
        part, margins = kernel, []
        for axis, (rest, hole) in enumerate(zip(rests, holes, strict=True)):
            low = window.margins[axis][0]
            first = (low - rest) % hole
            part = lax.slice_in_dim(
                part, min(first, part.shape[axis]), None, hole, axis
            )
            low = (low - rest - first) // hole
            size = x.shape[axis + 1]
            margins.append((low, counts[axis] - size + part.shape[axis] - 1 - low))
        if not part.size:  # the window is smaller than the distance
            parts.append(jnp.zeros((x.shape[0], *counts, kernel.shape[-1]), x.dtype))
            continue
        inner = window._replace(
            size=part.shape[:2], holes=(1, 1), margins=tuple(margins)
        )
        parts.append(convolve_with_holes(x, part, inner))
    y = jnp.stack(parts).reshape(*holes, *parts[0].shape)
    y = y.transpose(2, 3, 0, 4, 1, 5)  # (batch, rows, rest, columns, rest, features)
    y = y.reshape(x.shape[0], counts[0] * holes[0], counts[1] * holes[1], -1)
    return y[:, :rows, :columns]


def _definition(x: Array, kernel: Array, *, window: Window) -> list[Array]:
    y = lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.margins,
        window.holes,
        window.dilation,
        ("NHWC", "HWIO", "NHWC"),
        window.groups,
    )
    return [y]


def _output_shape(x: Any, kernel: Any, *, window: Window) -> list[tuple[int, ...]]:
    weights = (*window.size, x.shape[-1] // window.groups)
    divided = x.shape[-1] % window.groups == kernel.shape[-1] % window.groups == 0
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[:-1] != weights or not divided:
        rule = f"(batch, rows, columns, channels) and {(*weights, 'features')}"
        raise OperandShapeError("convolve", rule, x.shape, kernel.shape)
    return [(x.shape[0], *window.positions(x.shape[1:3]), kernel.shape[-1])]


def _kernel(x: Array, kernel: Array, *, window: Window) -> list[Array]:
    (shape,) = _output_shape(x, kernel, window=window)
    if min(*x.shape, *shape) <= 0 or not _fills_lanes(shape[-1], window):
        return _definition(x, kernel, window=window)
    plan = _plan(x.shape, shape, window, False)
    return _call("linsey_convolution", shape, (x, kernel), plan)


def _gradient_definition(x: Array, dy: Array, *, window: Window) -> list[Array]:
    (shape,) = _kernel_shape(x, dy, window=window)
    like = jax.ShapeDtypeStruct(shape, x.dtype)
    pull = jax.linear_transpose(lambda k: _definition(x, k, window=window)[0], like)
    return list(pull(dy))


def _kernel_shape(x: Any, dy: Any, *, window: Window) -> list[tuple[int, ...]]:
    output = (x.shape[0], *window.positions(x.shape[1:3]))
    divided = x.shape[-1] % window.groups == dy.shape[-1] % window.groups == 0
    if x.ndim != 4 or dy.ndim != 4 or dy.shape[:-1] != output or not divided:
        rule = f"(batch, rows, columns, channels) and {(*output, 'features')}"
        raise OperandShapeError("gradient of a kernel", rule, x.shape, dy.shape)
    return [(*window.size, x.shape[-1] // window.groups, dy.shape[-1])]


def _gradient_kernel(x: Array, dy: Array, *, window: Window) -> list[Array]:
    (shape,) = _kernel_shape(x, dy, window=window)
    if min(*x.shape, *dy.shape) <= 0 or not _fills_lanes(shape[-1], window):
        return _gradient_definition(x, dy, window=window)
    plan = _plan(x.shape, dy.shape, window, True)
    return _call("linsey_kernel_gradient", shape, (x, dy), plan)


def _call(
    target: str, shape: tuple[int, ...], arguments: Any, plan: tuple[int, ...]
) -> list[Array]:
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    return call_kernel(target, [result], arguments, plan)


def _plan(
    x: tuple[int, ...], y: tuple[int, ...], window: Window, gradient: bool
) -> tuple[int, ...]:
    """The numbers that the kernels want, see `linsey.ops.compiled.convolution`."""
    from linsey.ops.compiled.vectors import ROWS

    channels, columns = x[-1], y[2]
    whole = window.groups == 1 and window.dilation[1] == 1
    span = window.size[1] * channels if whole else channels // window.groups
    tiled = span if gradient else columns  # what the rows of tiles are
    sizes = [1, *range(2, ROWS + 1, 2)]
    tile_rows = min(
        (rows for rows in sizes if gradient or rows <= columns),
        key=lambda rows: (-(-tiled // rows) * max(rows, 4), -rows),
    )
    width = (columns - 1) * window.strides[1] + (window.size[1] - 1) * window.dilation[
        1
    ]
    reach = (window.size[0] - 1) * window.dilation[0] + 1
    rows = (BAND // ((width + 1) * channels) - reach) // window.strides[0] + 1
    band = min(max(rows, 1), y[1])
    margins = (low for low, _ in window.margins)
    return (
        *(*x, *y[1:], *window.size, *window.strides, *margins, *window.holes),
        *(*window.dilation, window.groups, band, tile_rows),
    )


def _transpose(cotangents: Any, x: Any, kernel: Any, *, window: Window) -> Any:
    dy = cotangents[0]
    if ad.is_undefined_primal(x):
        return [_input_gradient(dy, kernel, x.aval.shape, window), None]
    return [None, _bind_gradient(x, dy, window=window)[0]]


def _transpose_gradient(cotangents: Any, x: Any, dy: Any, *, window: Window) -> Any:
    dkernel = cotangents[0]
    if ad.is_undefined_primal(x):
        return [_input_gradient(dy, dkernel, x.aval.shape, window), None]
    return [None, convolve(x, dkernel, window)]


def _input_gradient(
    dy: Array, kernel: Array, image: tuple[int, ...], window: Window
) -> Array:
    """Convolves the gradient of the output with the kernel back to front."""
    rows, columns, channels, features = kernel.shape
    groups = window.groups
    kernel = lax.rev(kernel, (0, 1))
    kernel = lax.reshape(kernel, (rows, columns, channels, groups, features // groups))
    kernel = lax.transpose(kernel, (0, 1, 4, 3, 2))
    shape = (rows, columns, features // groups, groups * channels)
    kernel = lax.reshape(kernel, shape)
    window = window.transpose(image[1:3], dy.shape[1:3])
    return convolve_with_holes(dy, kernel, window)


_bind_convolution = define(
    "linsey_convolution",
    _definition,
    _kernel,
    "convolution",
    _output_shape,
    _transpose,
    multilinear=(0, 1),
    static=("window",),
)
_bind_gradient = define(
    "linsey_kernel_gradient",
    _gradient_definition,
    _gradient_kernel,
    "convolution",
    _kernel_shape,
    _transpose_gradient,
    multilinear=(0, 1),
    static=("window",),
)
