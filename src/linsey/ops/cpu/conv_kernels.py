"""Convolutions by kernels of our own, on a CPU.

There are two operations, each linear in both of its arguments: the convolution, and the
gradient of its kernel. The gradient of the input is a convolution too, so derivatives
of any order consist of these two. A convolution with a bias is a third operation,
without which XLA would keep the output both with and without the bias.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import ShapedArray
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad

from linsey.errors.base import ShapeError
from linsey.ops.cpu.conv_xla import Window
from linsey.ops.cpu.dispatch import Shape, fills_vectors, takes_convolution
from linsey.ops.cpu.primitive import (
    Linear,
    call_kernel,
    define,
    refuse_transposition,
)

BAND = 2**16  # floats of the input that a thread copies, which fit into its cache


def convolve(x: Array, kernel: Array, window: Window) -> Array:
    """Compute a convolution of channels-last arrays.

    Args:
        x: Inputs of shape (batch, rows, columns, channels).
        kernel: Weights of shape (rows, columns, channels // groups, features).
        window: How the window moves.

    Returns:
        Outputs of shape (batch, rows, columns, features).

    Raises:
        ShapeError: The shapes of the arrays do not match each other or the window.

    Example:
        >>> window = Window((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1)
        >>> convolve(jnp.full((1, 2, 2, 1), 3.0), jnp.ones((1, 1, 1, 32)), window).shape
        (1, 2, 2, 32)
    """
    return _bind_convolution(x, kernel, window=window)[0]


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def convolve_with_bias(x: Array, kernel: Array, bias: Array, window: Window) -> Array:
    """Compute a convolution of channels-last arrays, and add a bias.

    Args:
        x: Inputs of shape (batch, rows, columns, channels).
        kernel: Weights of shape (rows, columns, channels // groups, features).
        bias: Offsets of shape (features,).
        window: How the window moves.

    Returns:
        Outputs of shape (batch, rows, columns, features).

    Raises:
        ShapeError: The shapes of the arrays do not match each other or the window.

    Example:
        >>> window = Window((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1)
        >>> x, kernel = jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 32))
        >>> convolve_with_bias(x, kernel, jnp.ones(32), window)[0, 0, 0, 0].item()
        2.0
    """
    bias = lax.reshape(bias, (1, 1, 1, *bias.shape))
    return _bind_biased(x, kernel, bias, window=window)[0]


def _convolve_with_bias_jvp(
    window: Window,
    primals: tuple[Array, Array, Array],
    tangents: tuple[Array | SymbolicZero, ...],
) -> tuple[Array, Array]:
    y, (x, kernel, _), (dx, dkernel, dbias) = (
        convolve_with_bias(*primals, window),
        primals,
        tangents,
    )
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(convolve(dx, kernel, window))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(convolve(x, dkernel, window))
    if not isinstance(dbias, SymbolicZero):
        terms.append(lax.broadcast_in_dim(dbias, y.shape, (3,)))
    return y, reduce(lax.add, terms)


convolve_with_bias.defjvp(_convolve_with_bias_jvp, symbolic_zeros=True)


def convolve_dilated(x: Array, kernel: Array, window: Window) -> Array:
    """Compute any convolution, with kernels where possible.

    If the image is dilated, most products are with zeros. A row of the output whose
    number leaves the remainder `r` on division by the dilation meets only some rows of
    the kernel, at regular distances. For each remainder, of rows and of columns, this
    is a convolution without dilation.

    Args:
        x: Inputs of shape (batch, rows, columns, channels).
        kernel: Weights of shape (rows, columns, channels // groups, features).
        window: How the window moves.

    Returns:
        Outputs of shape (batch, rows, columns, features).

    Example:
        >>> window = Window((2, 2), (1, 1), ((1, 1), (1, 1)), (2, 2), (1, 1), 1)
        >>> x, kernel = jnp.ones((1, 3, 4, 2)), jnp.ones((2, 2, 2, 8))
        >>> convolve_dilated(x, kernel, window).shape
        (1, 6, 8, 8)
    """
    dilation = window.lhs_dilation
    rows, columns = window.output_shape(x.shape[1:3])
    if dilation == (1, 1) or not window.strides == window.rhs_dilation == (1, 1):
        y = (rows, columns)
        if takes_convolution(x.dtype, x.shape, kernel.shape, y, window.groups):
            return convolve(x, kernel, window)
        return _definition(x, kernel, window=window)[0]
    counts = -(-rows // dilation[0]), -(-columns // dilation[1])
    parts = []
    for remainders in itertools.product(*map(range, dilation)):
        part, padding = kernel, []
        for axis, (r, step) in enumerate(zip(remainders, dilation, strict=True)):
            low = window.padding[axis][0]
            first = (low - r) % step
            part = lax.slice_in_dim(
                part, min(first, part.shape[axis]), None, step, axis
            )
            low = (low - r - first) // step
            size = x.shape[axis + 1]
            padding.append((low, counts[axis] - size + part.shape[axis] - 1 - low))
        if not part.size:  # the window is smaller than the dilation
            parts.append(jnp.zeros((x.shape[0], *counts, kernel.shape[-1]), x.dtype))
            continue
        inner = window._replace(
            size=part.shape[:2], lhs_dilation=(1, 1), padding=tuple(padding)
        )
        parts.append(convolve_dilated(x, part, inner))
    y = jnp.stack(parts).reshape(*dilation, *parts[0].shape)
    # From (row remainder, column remainder, batch, rows, columns, features).
    y = y.transpose(2, 3, 0, 4, 1, 5)
    y = y.reshape(x.shape[0], counts[0] * dilation[0], counts[1] * dilation[1], -1)
    return y[:, :rows, :columns]


# --- the operations -------------------------------------------------------------------


def _definition(x: Array, kernel: Array, *, window: Window) -> list[Array]:
    _, strides, padding, lhs_dilation, rhs_dilation, groups = window
    axes = ("NHWC", "HWIO", "NHWC")
    moves = strides, padding, lhs_dilation, rhs_dilation, axes, groups
    return [lax.conv_general_dilated(x, kernel, *moves)]


def _output_shape(
    x: ShapedArray | Array, kernel: ShapedArray | Array, *, window: Window
) -> list[Shape]:
    weights = (*window.size, x.shape[-1] // window.groups)
    _check("convolve", x.shape, kernel.shape, weights, window.groups)
    return [(x.shape[0], *window.output_shape(x.shape[1:3]), kernel.shape[-1])]


def _check(operation: str, x: Shape, other: Shape, leading: Shape, groups: int) -> None:
    """Check the rank of `x`, the leading axes of the other operand, and the groups."""
    divided = x[-1] % groups == other[-1] % groups == 0
    if len(x) != 4 or len(other) != 4 or other[:-1] != leading or not divided:
        raise ShapeError(
            f"`{operation}` got arrays of the shapes {x}, {other}.",
            "They have to be (batch, rows, columns, channels) and "
            f"{(*leading, 'features')}: a kernel reads memory by these shapes.",
            "Reshape or broadcast the arrays before the call.",
        )


def _kernel(x: Array, kernel: Array, *, window: Window) -> list[Array]:
    (shape,) = _output_shape(x, kernel, window=window)
    if min(*x.shape, *shape) <= 0 or not fills_vectors(shape[-1], window.groups):
        return _definition(x, kernel, window=window)
    plan = _plan(x.shape, shape, window, False)
    return call_kernel("linsey_convolution", [shape], (x, kernel), plan)


def _biased_definition(
    x: Array, kernel: Array, bias: Array, *, window: Window
) -> list[Array]:
    (y,) = _definition(x, kernel, window=window)
    return [lax.add(y, lax.broadcast_in_dim(bias, y.shape, (0, 1, 2, 3)))]


def _biased_shape(
    x: ShapedArray | Array,
    kernel: ShapedArray | Array,
    bias: ShapedArray | Array,
    *,
    window: Window,
) -> list[Shape]:
    shapes = _output_shape(x, kernel, window=window)
    if bias.shape != (1, 1, 1, kernel.shape[-1]):
        raise ShapeError(
            f"`convolve_with_bias` got a bias of the shape {bias.shape[3:]}.",
            f"It has to be ({kernel.shape[-1]},), one number for each feature.",
            "Reshape or broadcast the bias before the call.",
        )
    return shapes


def _biased_kernel(
    x: Array, kernel: Array, bias: Array, *, window: Window
) -> list[Array]:
    (shape,) = _output_shape(x, kernel, window=window)
    if min(*x.shape, *shape) <= 0 or not fills_vectors(shape[-1], window.groups):
        return _biased_definition(x, kernel, bias, window=window)
    plan = _plan(x.shape, shape, window, False)
    return call_kernel("linsey_biased_convolution", [shape], (x, kernel, bias), plan)


def _gradient_definition(x: Array, dy: Array, *, window: Window) -> list[Array]:
    (shape,) = _kernel_shape(x, dy, window=window)
    like = jax.ShapeDtypeStruct(shape, x.dtype)
    pull = jax.linear_transpose(lambda k: _definition(x, k, window=window)[0], like)
    return list(pull(dy))


def _kernel_shape(
    x: ShapedArray | Array, dy: ShapedArray | Array, *, window: Window
) -> list[Shape]:
    output = (x.shape[0], *window.output_shape(x.shape[1:3]))
    _check("gradient of a kernel", x.shape, dy.shape, output, window.groups)
    return [(*window.size, x.shape[-1] // window.groups, dy.shape[-1])]


def _gradient_kernel(x: Array, dy: Array, *, window: Window) -> list[Array]:
    (shape,) = _kernel_shape(x, dy, window=window)
    if min(*x.shape, *dy.shape) <= 0 or not fills_vectors(shape[-1], window.groups):
        return _gradient_definition(x, dy, window=window)
    plan = _plan(x.shape, dy.shape, window, True)
    return call_kernel("linsey_kernel_gradient", [shape], (x, dy), plan)


def _plan(x: Shape, y: Shape, window: Window, gradient: bool) -> Sequence[int]:
    """Return the numbers that the kernels need; see `codegen.convolution`."""
    from linsey.ops.cpu.codegen.vectors import ROWS

    channels, columns = x[-1], y[2]
    joined = window.groups == 1 and window.rhs_dilation[1] == 1
    span = window.size[1] * channels if joined else channels // window.groups
    tiled = span if gradient else columns  # number of rows to be divided into tiles
    sizes = [1, *range(2, ROWS + 1, 2)]
    tile_rows = min(
        (rows for rows in sizes if gradient or rows <= columns),
        key=lambda rows: (-(-tiled // rows) * max(rows, 4), -rows),
    )
    height = (window.size[0] - 1) * window.rhs_dilation[0] + 1
    width = (window.size[1] - 1) * window.rhs_dilation[1] + 1
    width += (columns - 1) * window.strides[1]
    rows = (BAND // (width * channels) - height) // window.strides[0] + 1
    band = min(max(rows, 1), y[1])
    low = (low for low, _ in window.padding)
    return (
        *(*x, *y[1:], *window.size, *window.strides, *low, *window.lhs_dilation),
        *(*window.rhs_dilation, window.groups, band, tile_rows),
    )


def _transpose(
    cotangents: Sequence[Array], x: Linear, kernel: Array, *, window: Window
) -> list[Array | None]:
    dy = cotangents[0]
    if isinstance(x, ad.UndefinedPrimal):
        return [_input_gradient(dy, kernel, x.aval.shape, window), None]
    return [None, _bind_gradient(x, dy, window=window)[0]]


def _transpose_gradient(
    cotangents: Sequence[Array], x: Linear, dy: Array, *, window: Window
) -> list[Array | None]:
    dkernel = cotangents[0]
    if isinstance(x, ad.UndefinedPrimal):
        return [_input_gradient(dy, dkernel, x.aval.shape, window), None]
    return [None, convolve(x, dkernel, window)]


def _input_gradient(dy: Array, kernel: Array, x: Shape, window: Window) -> Array:
    """Convolve the gradient of the output with the reversed kernel."""
    rows, columns, channels, features = kernel.shape
    groups = window.groups
    kernel = lax.rev(kernel, (0, 1))
    kernel = lax.reshape(kernel, (rows, columns, channels, groups, features // groups))
    kernel = lax.transpose(kernel, (0, 1, 4, 3, 2))
    shape = (rows, columns, features // groups, groups * channels)
    kernel = lax.reshape(kernel, shape)
    window = window.transpose(x[1:3], dy.shape[1:3])
    return convolve_dilated(dy, kernel, window)


_define = partial(define, module="convolution", static=("window",))
_bind_convolution = _define(
    "linsey_convolution",
    _definition,
    _kernel,
    shapes=_output_shape,
    transpose=_transpose,
    multilinear=(0, 1),
)
_bind_gradient = _define(
    "linsey_kernel_gradient",
    _gradient_definition,
    _gradient_kernel,
    shapes=_kernel_shape,
    transpose=_transpose_gradient,
    multilinear=(0, 1),
)
_bind_biased = _define(
    "linsey_biased_convolution",
    _biased_definition,
    _biased_kernel,
    shapes=_biased_shape,
    transpose=refuse_transposition,
)
