"""Convolutions for which a CPU has something faster than XLA's own.

- A window for each channel is a sum of shifted products, 4 to 30 times faster forward
  and backward.
- Groups of channels are convolved one by one, or, where there are many, some together
  with zeros between them. XLA's gradient of the kernel takes 20 to 200 times as long.
- A window of size one is a matrix product, 2 to 5 times faster.
- Where numba is installed, kernels of our own compute most others: `conv_kernels`.
- All others are those of `conv_xla`, where XLA is shown its faster kernels.

Results are equal up to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.cpu.conv_xla import Precision, Window, convolve_by_xla
from linsey.ops.cpu.dispatch import has_static_shape, takes_convolution
from linsey.promotion import promote_types

LARGEST_WINDOW = 27
MOST_PARTS = 8


def convolve(
    x: Array,
    kernel: Array,
    strides: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    *,
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    dimension_numbers: lax.ConvDimensionNumbers,
    feature_group_count: int,
    precision: Precision,
) -> Array:
    """Compute `jax.lax.conv_general_dilated` of channels-last arrays on a CPU.

    Args:
        x: Inputs of shape (batch, *spatial, channels).
        kernel: Weights of shape (*window, channels // groups, features).
        strides: Distances between windows.
        padding: (low, high) pairs of zeros.
        lhs_dilation: Distances between the entries of `x`.
        rhs_dilation: Distances between the entries of the window.
        dimension_numbers: Which axes are which.
        feature_group_count: Number of groups of channels that do not mix.
        precision: See `jax.lax.Precision`.

    Returns:
        Outputs of shape (batch, *spatial, features).
    """
    size, groups = kernel.shape[:-2], feature_group_count
    pads = tuple((low, high) for low, high in padding)
    window = Window(size, strides, pads, lhs_dilation, rhs_dilation, groups)
    xla = partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=pads,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        precision=precision,
    )
    plain = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype == kernel.dtype
    plain = plain and set(lhs_dilation) <= {1} and has_static_shape(x)
    if not (plain and x.size and kernel.size):
        return xla(x, kernel, feature_group_count=groups)
    if min(window.output_shape(x.shape[1:-1]), default=0) <= 0:
        return xla(x, kernel, feature_group_count=groups)
    pointwise = groups == 1 and set(size) == {1} and x.dtype.itemsize >= 4
    if pointwise and not any(map(any, pads)):
        return _multiply(x, kernel, strides, precision)
    y = _convolve_by_kernel(x, kernel, window)
    if y is not None:
        return y
    if groups > 1:
        if kernel.shape[-2] > 1:
            return _convolve_groups(x, kernel, groups, xla)
        if math.prod(size) <= LARGEST_WINDOW:
            return _convolve_channels(x, kernel, window)
        return xla(x, kernel, feature_group_count=groups)
    return convolve_by_xla(x, kernel, window, precision)


def _convolve_by_kernel(x: Array, kernel: Array, window: Window) -> Array | None:
    """Convolve by a kernel of our own, if there is one; one axis is a row of two."""
    rank, groups = len(window.size), window.groups
    if rank > 2 or kernel.shape[-2] == 1 < groups:
        return None
    if x.shape[-1] != kernel.shape[-2] * groups:
        return None  # jax says what is wrong
    more = (1,) * (2 - rank)
    spatial = window.output_shape(x.shape[1:-1])
    image = (x.shape[0], *more, *x.shape[1:])
    weights = (*more, *kernel.shape)
    if not takes_convolution(x.dtype, image, weights, (*more, *spatial), groups):
        return None
    from linsey.ops.cpu import conv_kernels  # an exported program does not need it

    size, strides, padding, _, rhs_dilation, _ = window
    sizes, pads = (*more, *size), (*((0, 0) for _ in more), *padding)
    steps, dilation = (*more, *strides), (*more, *rhs_dilation)
    window = Window(sizes, steps, pads, (1, 1), dilation, groups)
    x, kernel = lax.reshape(x, image), lax.reshape(kernel, weights)
    y = conv_kernels.convolve(x, kernel, window)
    return lax.reshape(y, (y.shape[0], *y.shape[3 - rank :]))


def _multiply(
    x: Array, kernel: Array, strides: tuple[int, ...], precision: Precision
) -> Array:
    """Multiply the channels of each entry that a window of size one visits."""
    if set(strides) != {1}:
        x = lax.slice(x, (0,) * x.ndim, x.shape, (1, *strides, 1))
    rows = lax.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
    matrix = lax.reshape(kernel, kernel.shape[-2:])
    y = lax.dot(rows, matrix, precision=precision)  # (rows, features)
    return lax.reshape(y, (*x.shape[:-1], kernel.shape[-1]))


@partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
def _convolve_channels(x: Array, kernel: Array, window: Window) -> Array:
    """Add shifted inputs times their weights; a checkpoint, to keep `x` alone."""
    dtype = x.dtype
    wide = promote_types(dtype, jnp.float32)
    x, kernel = (lax.convert_element_type(v, wide) for v in (x, kernel))
    size, strides, padding, _, rhs_dilation, _ = window
    spatial = window.output_shape(x.shape[1:-1])
    features, channels = kernel.shape[-1], x.shape[-1]
    pads = ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0))
    x = lax.pad(x, np.zeros((), wide), pads)
    repeats = features // channels
    if repeats > 1:
        x = jnp.repeat(x, repeats, axis=-1)
    total = None
    for offset in itertools.product(*map(range, size)):
        starts = [o * d for o, d in zip(offset, rhs_dilation, strict=True)]
        ends = [
            start + (n - 1) * stride + 1
            for start, n, stride in zip(starts, spatial, strides, strict=True)
        ]
        values = lax.slice(
            x, (0, *starts, 0), (x.shape[0], *ends, features), (1, *strides, 1)
        )
        weights = lax.broadcast_in_dim(
            kernel[(*offset, 0)], values.shape, (values.ndim - 1,)
        )
        term = lax.mul(values, weights)
        total = term if total is None else lax.add(total, term)
    assert total is not None
    return lax.convert_element_type(total, dtype)


def _convolve_groups(
    x: Array, kernel: Array, groups: int, xla: Callable[[Array, Array], Array]
) -> Array:
    """Convolve at most some parts, each with the groups in it on a diagonal."""
    parts = max(n for n in range(1, MOST_PARTS + 1) if groups % n == 0)
    inputs = jnp.split(x, parts, axis=-1)
    kernels = jnp.split(kernel, parts, axis=-1)
    return lax.concatenate(
        [
            xla(part, _diagonal(weights, groups // parts))
            for part, weights in zip(inputs, kernels, strict=True)
        ],
        x.ndim - 1,
    )


def _diagonal(kernel: Array, groups: int) -> Array:
    """Put zeros between channels and features of different groups."""
    if groups == 1:
        return kernel
    *window, channels, features = kernel.shape
    split = kernel.reshape(*window, 1, channels, groups, features // groups)
    same = jnp.eye(groups, dtype=kernel.dtype)[:, None, :, None]
    return (split * same).reshape(*window, groups * channels, features)
