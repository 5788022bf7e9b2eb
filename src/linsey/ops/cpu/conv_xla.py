"""Convolutions without groups on a CPU, written so that XLA uses its faster kernels.

Measured on two cores of an AMD EPYC with jaxlib 0.10, in float32
(`benchmarks/conv.py` and `benchmarks/step.py`):

- XLA puts the axes of a convolution in the order that its kernels require, but not in
  the bodies of loops and branches (https://github.com/jax-ml/jax/issues/12868). Here
  all three convolutions, forward and for both gradients, have that order from the
  start.
- With two spatial axes and no padding, a convolution takes up to 5 times as long as
  with one row of zeros.
- For small kernels XLA uses a library that computes in one thread, unless the output
  has more rows than the input: then Eigen uses all threads, almost twice as fast.
- The additional rows of such an output are cut off. XLA keeps them in memory as long as
  anything reads the other rows, so these convolutions process parts of the batch, one
  after the other.
- The gradient of a kernel is computed in one thread. Four parts of the batch at once
  occupy all threads; but if arrays are large, processing parts one after the other
  keeps their transposed copies small.

One limit of XLA remains: for the gradient of a kernel, one thread takes 1.6 times as
long as oneDNN does. Products of patches, or of shifted inputs, are no faster, unless
there are few of them (`conv`): building them costs as much as they gain.
"""

from __future__ import annotations

import math
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from linsey.ops.cpu.dispatch import Shape, is_whole, threads
from linsey.typing import PrecisionLike as Precision

SMALL_KERNEL = 2**17  # entries; the library uses all threads for larger ones
LARGE_WORK = 2**25  # multiplications; less is not worth a loop
LARGE_ARRAY = 2**21  # entries; the transpose of a larger one is made in parts
LOOP = 8  # parts of a batch, if its size is a multiple


Padding = tuple[tuple[int, int], ...]  # zeros before and after, for each axis


class Window(NamedTuple):
    """How a window moves over an image; hashable, because it is static.

    Attributes:
        size: Size of the window, for each spatial axis.
        strides: Distances between windows.
        padding: (low, high) numbers of zeros, or of entries to cut off if negative.
        lhs_dilation: Distances between the entries of the image.
        rhs_dilation: Distances between the entries of the window.
        groups: Number of groups of channels that do not mix.

    Example:
        >>> window = Window((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), (1, 1), 1)
        >>> window.output_shape((8, 9))
        (4, 5)
        >>> window.transpose((8, 9), (4, 5)).padding
        ((1, 2), (1, 1))
    """

    size: Shape
    strides: Shape
    padding: Padding
    lhs_dilation: Shape
    rhs_dilation: Shape
    groups: int

    def output_shape(self, image: Shape) -> Shape:
        """Return the spatial shape of the output, given that of an image."""
        return tuple(
            ((n - 1) * lhs + low + high - (size - 1) * rhs) // stride + 1
            for n, size, stride, (low, high), lhs, rhs in zip(
                image, *self[:-1], strict=True
            )
        )

    def transpose(self, image: Shape, output: Shape) -> Window:
        """Return the window that maps the output's gradient to the image's."""
        padding = []
        for i in range(len(self.size)):
            reach = (self.size[i] - 1) * self.rhs_dilation[i]
            low = reach - self.padding[i][0]
            last = (image[i] - 1) * self.lhs_dilation[i]
            high = last - (output[i] - 1) * self.strides[i] + reach - low
            padding.append((low, high))
        return self._replace(
            strides=self.lhs_dilation, lhs_dilation=self.strides, padding=tuple(padding)
        )


class Lowering(NamedTuple):
    """How a convolution is written for XLA; hashable, because it is static."""

    strides: tuple[int, ...]
    padding: Padding
    rhs_dilation: tuple[int, ...]
    precision: Precision
    rows: int = 0  # rows of output to add and to cut off
    rows_for_kernel: int = 0  # the same for the gradient of the kernel
    pads_input: bool = False  # whether the gradient of the input is to have more rows
    parts: int = 1  # of the batch, one after the other
    parts_for_kernel: int = 1  # of the batch, all at once, for the kernel's gradient
    kernel_in_loop: bool = False  # whether it takes `parts` instead, one by one


def convolve_by_xla(
    x: Array, kernel: Array, window: Window, precision: Precision = None
) -> Array:
    """Compute `jax.lax.conv_general_dilated` of channels-last arrays without groups.

    Args:
        x: Inputs of shape (batch, *spatial, channels).
        kernel: Weights of shape (*window, channels, features).
        window: How the window moves; it has no groups and dilates no input.
        precision: See `jax.lax.Precision`.

    Returns:
        Outputs of shape (batch, *spatial, features).
    """
    lowering = Lowering(window.strides, window.padding, window.rhs_dilation, precision)
    whole = is_whole()  # otherwise, parts of the batch may lie on other devices
    return _convolve(
        x, kernel, _choose(lowering, x.shape, kernel.shape, x.dtype, whole)
    )


@cache
def _choose(
    lowering: Lowering, x: Shape, kernel: Shape, dtype: np.dtype, whole: bool
) -> Lowering:
    """Choose rows and parts for the shapes of the operands."""
    *window, channels, features = kernel
    padding, ones = lowering.padding, (1,) * len(window)
    simple = len(window) == 2 and dtype == jnp.float32
    simple = simple and lowering.strides == lowering.rhs_dilation == ones
    if not simple or min(map(min, padding)) < 0:
        return lowering
    moves = Window(tuple(window), ones, padding, ones, ones, 1)
    outputs = moves.output_shape(x[1:-1])
    work = x[0] * math.prod(outputs) * math.prod(kernel)
    if work < LARGE_WORK:
        return lowering
    bare = int(not any(map(any, padding)))
    growth = window[0] - sum(padding[0])  # rows that make the output larger than `x`
    grows = threads() > 1 and math.prod(kernel) < SMALL_KERNEL
    grows = grows and 0 < growth <= outputs[0] // 4
    largest = x[0] * max(math.prod(x[1:]), math.prod(outputs) * features)
    return lowering._replace(
        rows=growth if grows and channels > 2 else bare,
        rows_for_kernel=bare,
        pads_input=grows and features > 2,
        parts=math.gcd(x[0], LOOP) if whole else 1,
        parts_for_kernel=math.gcd(x[0], 2 * threads()) if whole else 1,
        kernel_in_loop=whole and x[0] % 2 == 0 and largest >= LARGE_ARRAY,
    )


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _convolve(x: Array, kernel: Array, lowering: Lowering) -> Array:
    def convolve_part(part: Array) -> Array:
        y = _xla(part, kernel, lowering, lowering.rows, "NSC", "SIO", "NSC")
        return _cut(y, lowering.rows, 1)

    if not lowering.rows or lowering.parts == 1:
        return convolve_part(x)
    size = x.shape[0] // lowering.parts
    result = jax.eval_shape(convolve_part, x).shape[1:]

    def step(index: Array, y: Array) -> Array:
        part = lax.dynamic_slice_in_dim(x, index * size, size)
        return lax.dynamic_update_slice_in_dim(y, convolve_part(part), index * size, 0)

    return lax.fori_loop(
        0, lowering.parts, step, lax.empty((x.shape[0], *result), x.dtype)
    )


def _convolve_jvp(
    lowering: Lowering,
    primals: tuple[Array, Array],
    tangents: tuple[Array | SymbolicZero, Array | SymbolicZero],
) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(_linear_in_input(dx, kernel, lowering))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(_linear_in_kernel(x, dkernel, lowering))
    y = _convolve(x, kernel, lowering)
    return y, lax.add(*terms) if len(terms) == 2 else terms[0]


_convolve.defjvp(_convolve_jvp, symbolic_zeros=True)


@partial(jax.jit, static_argnums=2)
def _linear_in_input(x: Array, kernel: Array, lowering: Lowering) -> Array:
    """Return the convolution whose transpose for `x` has the fastest axis order.

    Padding `x` beforehand makes the result of the transpose larger than its input.
    """
    if lowering.pads_input:
        pads = ((0, 0, 0), (*lowering.padding[0], 0), (0, 0, 0), (0, 0, 0))
        x = lax.pad(x, np.zeros((), x.dtype), pads)
        lowering = lowering._replace(padding=((0, 0), *lowering.padding[1:]))
    *window, channels, features = range(kernel.ndim)
    kernel = lax.transpose(kernel, (*window, features, channels))
    return _xla(x, kernel, lowering, 0, "NSC", "SOI", "NSC")


@partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
def _linear_in_kernel(x: Array, kernel: Array, lowering: Lowering) -> Array:
    """Return the convolution whose transpose for `kernel` has the fastest axis order.

    This is a checkpoint, so that `x` is kept and not its transpose.
    """
    *spatial, last = range(1, x.ndim)
    swap = (last - 1, *range(last - 1), last)
    rows = lowering.rows_for_kernel
    kernel = lax.transpose(kernel, swap)  # (channels, *window, features)

    def convolve_part(part: Array) -> Array:
        part = lax.transpose(part, (last, *spatial, 0))  # (channels, *spatial, batch)
        y = _xla(part, kernel, lowering, rows, "CSN", "ISO", "SNC")
        return lax.transpose(_cut(y, rows, 0), swap)  # (batch, *spatial, features)

    if lowering.kernel_in_loop:
        x = lax.reshape(x, (lowering.parts, x.shape[0] // lowering.parts, *x.shape[1:]))
        y = lax.map(jax.checkpoint(convolve_part, prevent_cse=False), x)
        return lax.reshape(y, (x.shape[0] * x.shape[1], *y.shape[2:]))
    size = x.shape[0] // lowering.parts_for_kernel
    starts = range(0, x.shape[0], size) if size else (0,)
    parts = [lax.slice_in_dim(x, start, start + size) for start in starts]
    return lax.concatenate([convolve_part(part) for part in parts], 0)


def _xla(x: Array, kernel: Array, lowering: Lowering, rows: int, *order: str) -> Array:
    """Convolve arrays with axes in the given order; S stands for all spatial axes."""
    (top, bottom), *sides = lowering.padding
    names = "0123456789"[: len(lowering.strides)]
    inputs, weights, outputs = (spec.replace("S", names) for spec in order)
    return lax.conv_general_dilated(
        x,
        kernel,
        lowering.strides,
        [(top, bottom + rows), *sides],
        rhs_dilation=lowering.rhs_dilation,
        dimension_numbers=(inputs, weights, outputs),
        precision=lowering.precision,
    )


def _cut(y: Array, rows: int, axis: int) -> Array:
    return lax.slice_in_dim(y, 0, y.shape[axis] - rows, axis=axis) if rows else y
