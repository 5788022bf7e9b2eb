"""Convolutions on a CPU, by methods that are faster there than XLA's default.

- A depthwise convolution is a sum of shifted products.
- Groups of channels are convolved one by one or, if there are many, several at a time
  with zeros between them. XLA is slow for groups, most of all in the gradient of the
  kernel (https://github.com/jax-ml/jax/issues/23713 and 13800).
- A window of size one is a matrix product.
- For small outputs, such as those of the last layers of a network, all patches together
  have fewer entries than the kernel. The forward pass and both gradients are then
  products with these patches.
- If numba is installed, kernels of our own compute most other cases: `conv_kernels`.
- The rest is left to `conv_xla`, written so that XLA uses its faster kernels.

`benchmarks/conv.py` measures the gain of each. Results are equal up to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.cpu.conv_xla import Precision, Window, convolve_by_xla
from linsey.ops.cpu.dispatch import has_static_shape, is_whole, takes_convolution
from linsey.ops.dot import add_bias
from linsey.promotion import promote_types

LARGEST_WINDOW = 27
PATCHED_WORK = 2**21  # multiplications; less is not worth a slice for each entry
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
    bias: Array | None = None,
) -> Array:
    """Compute `jax.lax.conv_general_dilated` of channels-last arrays, plus a bias.

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
        bias: Offsets of shape (features,). If `None`, nothing is added.

    Returns:
        Outputs of shape (batch, *spatial, features).
    """
    window = Window(
        kernel.shape[:-2],
        strides,
        tuple((low, high) for low, high in padding),
        lhs_dilation,
        rhs_dilation,
        feature_group_count,
    )
    # Static arguments need a hash.
    static: Any = tuple(precision) if isinstance(precision, list) else precision
    return _convolve(x, kernel, bias, window, dimension_numbers, static)


# All convolutions of the same shapes share one function of the program: it is traced,
# differentiated and lowered once.
@partial(jax.jit, static_argnums=(3, 4, 5))
def _convolve(
    x: Array,
    kernel: Array,
    bias: Array | None,
    window: Window,
    dimension_numbers: lax.ConvDimensionNumbers,
    precision: Precision,
) -> Array:
    size, strides, pads, lhs_dilation, rhs_dilation, groups = window
    xla = partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=pads,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        precision=precision,
    )
    pointwise = groups == 1 and set(size) == {1} and x.dtype.itemsize >= 4
    if not _is_plain(x, kernel, window):
        y = xla(x, kernel, feature_group_count=groups)
    elif pointwise and not any(map(any, pads)):
        y = _multiply(x, kernel, strides, precision)
    elif _has_small_output(x, kernel, window):
        y = _multiply_patches(x, kernel, window, precision)
    elif _takes_kernel(x, kernel, window):
        return _convolve_by_kernel(x, kernel, bias, window)
    elif groups == 1:
        y = convolve_by_xla(x, kernel, window, precision)
    elif kernel.shape[-2] > 1:
        y = _convolve_groups(x, kernel, groups, xla)
    elif math.prod(size) <= LARGEST_WINDOW:
        y = _convolve_channels(x, kernel, window)
    else:
        y = xla(x, kernel, feature_group_count=groups)
    return y if bias is None else add_bias(y, bias)


def _is_plain(x: Array, kernel: Array, window: Window) -> bool:
    """Return whether this is an undilated, nonempty convolution of real arrays."""
    return (
        jnp.issubdtype(x.dtype, jnp.floating)
        and x.dtype == kernel.dtype
        and set(window.lhs_dilation) <= {1}
        and has_static_shape(x)
        and x.size > 0
        and kernel.size > 0
        and min(window.output_shape(x.shape[1:-1]), default=0) > 0
    )


def _has_small_output(x: Array, kernel: Array, window: Window) -> bool:
    """Tell whether all patches together are smaller than the kernel."""
    outputs = x.shape[0] * math.prod(window.output_shape(x.shape[1:-1]))
    return (
        window.groups == 1
        and x.dtype.itemsize >= 4
        and math.prod(window.size) <= LARGEST_WINDOW
        and min(map(min, window.padding)) >= 0
        and outputs <= kernel.shape[-1]
        and is_whole()  # otherwise, merged axes may be divided over devices
        and outputs * math.prod(kernel.shape) >= PATCHED_WORK
    )


def _takes_kernel(x: Array, kernel: Array, window: Window) -> bool:
    """Return whether our own kernel serves; one axis counts as one row of an image."""
    rank, groups, channels = len(window.size), window.groups, kernel.shape[-2]
    if rank > 2 or channels == 1 < groups or x.shape[-1] != channels * groups:
        return False  # if channels do not match, JAX explains the error
    more = (1,) * (2 - rank)
    y = (*more, *window.output_shape(x.shape[1:-1]))
    image = (x.shape[0], *more, *x.shape[1:])
    return takes_convolution(x.dtype, image, (*more, *kernel.shape), y, groups)


def _convolve_by_kernel(
    x: Array, kernel: Array, bias: Array | None, window: Window
) -> Array:
    from linsey.ops.cpu import conv_kernels  # an exported program does not need it

    rank = len(window.size)
    more = (1,) * (2 - rank)
    size, strides, padding, _, rhs_dilation, groups = window
    sizes, pads = (*more, *size), (*((0, 0) for _ in more), *padding)
    steps, dilation = (*more, *strides), (*more, *rhs_dilation)
    window = Window(sizes, steps, pads, (1, 1), dilation, groups)
    x = lax.reshape(x, (x.shape[0], *more, *x.shape[1:]))
    kernel = lax.reshape(kernel, (*more, *kernel.shape))
    if bias is None:
        y = conv_kernels.convolve(x, kernel, window)
    elif (bias.shape, bias.dtype) == (kernel.shape[-1:], x.dtype):
        y = conv_kernels.convolve_with_bias(x, kernel, bias, window)
    else:
        y = add_bias(conv_kernels.convolve(x, kernel, window), bias)
    return lax.reshape(y, (y.shape[0], *y.shape[3 - rank :]))


def _multiply(
    x: Array, kernel: Array, strides: tuple[int, ...], precision: Precision
) -> Array:
    """Multiply each entry that a window of size one visits by the kernel."""
    if set(strides) != {1}:
        x = lax.slice(x, (0,) * x.ndim, x.shape, (1, *strides, 1))
    rows = lax.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
    matrix = lax.reshape(kernel, kernel.shape[-2:])
    y = lax.dot(rows, matrix, precision=precision)  # (rows, features)
    return lax.reshape(y, (*x.shape[:-1], kernel.shape[-1]))


def _multiply_patches(
    x: Array, kernel: Array, window: Window, precision: Precision
) -> Array:
    """Multiply the patch behind each output by the whole kernel."""
    patches = lax.concatenate(list(_shifted(x, window)), x.ndim - 1)
    matrix = lax.reshape(kernel, (math.prod(kernel.shape[:-1]), kernel.shape[-1]))
    contracted = ((x.ndim - 1,), (0,)), ((), ())
    return lax.dot_general(patches, matrix, contracted, precision=precision)


def _shifted(x: Array, window: Window) -> Iterator[Array]:
    """Yield, for each entry of the window, the inputs it meets for all outputs."""
    size, strides, padding, _, rhs_dilation, _ = window
    spatial, channels = window.output_shape(x.shape[1:-1]), x.shape[-1]
    pads = ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0))
    x = lax.pad(x, np.zeros((), x.dtype), pads)
    for offset in itertools.product(*map(range, size)):
        starts = [o * d for o, d in zip(offset, rhs_dilation, strict=True)]
        ends = [
            start + (n - 1) * stride + 1
            for start, n, stride in zip(starts, spatial, strides, strict=True)
        ]
        yield lax.slice(
            x, (0, *starts, 0), (x.shape[0], *ends, channels), (1, *strides, 1)
        )


@partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
def _convolve_channels(x: Array, kernel: Array, window: Window) -> Array:
    """Add shifted inputs times their weights; a checkpoint that keeps only `x`."""
    dtype = x.dtype
    wide = promote_types(dtype, jnp.float32)
    x, kernel = (lax.convert_element_type(v, wide) for v in (x, kernel))
    repeats = kernel.shape[-1] // x.shape[-1]
    if repeats > 1:
        x = jnp.repeat(x, repeats, axis=-1)
    total = None
    offsets = itertools.product(*map(range, window.size))
    for offset, values in zip(offsets, _shifted(x, window), strict=True):
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
    """Convolve the groups in a few parts, each with a block-diagonal kernel."""
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
    """Make a block-diagonal kernel, with zeros between different groups."""
    if groups == 1:
        return kernel
    *window, channels, features = kernel.shape
    split = kernel.reshape(*window, 1, channels, groups, features // groups)
    same = jnp.eye(groups, dtype=kernel.dtype)[:, None, :, None]
    return (split * same).reshape(*window, groups * channels, features)
