"""Convolutions for which a CPU has something faster than XLA's own.

- A window for each channel is a sum of shifted products, 4 to 30 times faster forward
  and backward.
- Groups of channels are convolved one by one, or, where there are many, some together
  with zeros between them. XLA's weight gradient takes 20 to 200 times as long.
- A window of one position is a matrix product, 2 to 5 times faster.
- Where numba is installed, kernels of our own compute most others, `conv_cpu_compiled`.
- All others are `conv_cpu_plain`, where XLA is shown its faster kernels.

Results are equal up to rounding.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.compiled import usable
from linsey.ops.conv_cpu_plain import convolve_plain

LARGEST_WINDOW = 27
MOST_PARTS = 8

Pairs = Any


def convolve(
    x: Array,
    kernel: Array,
    strides: tuple[int, ...],
    margins: Pairs,
    *,
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    dimension_numbers: lax.ConvDimensionNumbers,
    feature_group_count: int,
    precision: Any,
) -> Array:
    """Computes `jax.lax.conv_general_dilated` of channels-last arrays on a CPU.

    Args:
        x: inputs of shape (batch, *spatial, channels).
        kernel: weights of shape (*window, channels // groups, features).
        strides: as there, like the arguments that follow.
        margins: (low, high) pairs of zeros.
        lhs_dilation: distances between the entries of `x`.
        rhs_dilation: distances between the entries of the window.
        dimension_numbers: which axes are which.
        feature_group_count: number of groups of channels that do not mix.
        precision: see `jax.lax.Precision`.

    Returns:
        Outputs of shape (batch, *positions, features).
    """
    window, groups = kernel.shape[:-2], feature_group_count
    xla = partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=margins,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        precision=precision,
    )
    plain = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype == kernel.dtype
    plain = plain and all(hole == 1 for hole in lhs_dilation)
    plain = plain and all(isinstance(size, int) for size in x.shape)  # none symbolic
    if not (plain and x.size and kernel.size):
        return xla(x, kernel, feature_group_count=groups)
    positions = _positions(x.shape[1:-1], window, strides, margins, rhs_dilation)
    if min(positions, default=0) <= 0:
        return xla(x, kernel, feature_group_count=groups)
    pointwise = groups == 1 and set(window) == {1} and x.dtype.itemsize >= 4
    if pointwise and all(low == high == 0 for low, high in margins):
        return _pointwise(x, kernel, strides, precision)
    compiled = _compiled(x, kernel, strides, margins, rhs_dilation, groups)
    if compiled is not None:
        return compiled
    if groups > 1:
        if kernel.shape[-2] > 1:
            return _grouped(x, kernel, groups, xla)
        if math.prod(window) <= LARGEST_WINDOW:
            return _depthwise(x, kernel, strides, margins, rhs_dilation, positions)
    else:
        return convolve_plain(x, kernel, strides, margins, rhs_dilation, precision)
    return xla(x, kernel, feature_group_count=groups)


def may_help() -> bool:
    """Says whether computations run on a CPU, so that `convolve` is worth calling."""
    return jax.default_backend() == "cpu"


def _positions(
    spatial: tuple[int, ...],
    window: tuple[int, ...],
    strides: tuple[int, ...],
    margins: Pairs,
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    return tuple(
        (n + low + high - (w - 1) * d - 1) // s + 1
        for n, w, s, (low, high), d in zip(
            spatial, window, strides, margins, dilation, strict=True
        )
    )


def _compiled(
    x: Array,
    kernel: Array,
    strides: tuple[int, ...],
    margins: Pairs,
    dilation: tuple[int, ...],
    groups: int,
) -> Array | None:
    """Convolves by a kernel of our own, if one is there; one axis is a row of two."""
    rank = len(strides)
    if rank > 2 or kernel.shape[-2] == 1 < groups or not usable():
        return None
    if x.shape[-1] != kernel.shape[-2] * groups:
        return None  # jax says what is wrong
    from linsey.ops import conv_cpu_compiled as compiled

    more = (1,) * (2 - rank)
    window = compiled.Window(
        size=(*more, *kernel.shape[:-2]),
        strides=(*more, *strides),
        margins=(*((0, 0) for _ in more), *map(tuple, margins)),
        holes=(1, 1),
        dilation=(*more, *dilation),
        groups=groups,
    )
    image = (x.shape[0], *more, *x.shape[1:])
    weights = (*more, *kernel.shape)
    if not compiled.takes(image, weights, x.dtype, window):
        return None
    y = compiled.convolve(lax.reshape(x, image), lax.reshape(kernel, weights), window)
    return lax.reshape(y, (y.shape[0], *y.shape[3 - rank :]))


def _pointwise(
    x: Array, kernel: Array, strides: tuple[int, ...], precision: Any
) -> Array:
    """Multiplies the channels at each position that a window of size one visits."""
    if set(strides) != {1}:
        x = lax.slice(x, (0,) * x.ndim, x.shape, (1, *strides, 1))
    rows = lax.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
    matrix = lax.reshape(kernel, kernel.shape[-2:])
    y = lax.dot(rows, matrix, precision=precision)  # (rows, features)
    return lax.reshape(y, (*x.shape[:-1], kernel.shape[-1]))


@partial(jax.checkpoint, prevent_cse=False, static_argnums=(2, 3, 4, 5))
def _depthwise(
    x: Array,
    kernel: Array,
    strides: tuple[int, ...],
    margins: Pairs,
    dilation: tuple[int, ...],
    positions: tuple[int, ...],
) -> Array:
    """Adds shifted inputs times their weights; a checkpoint, to keep `x` alone."""
    dtype = x.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    x, kernel = (lax.convert_element_type(v, wide) for v in (x, kernel))
    window, (features,), channels = kernel.shape[:-2], kernel.shape[-1:], x.shape[-1]
    pads = ((0, 0, 0), *((low, high, 0) for low, high in margins), (0, 0, 0))
    x = lax.pad(x, np.zeros((), wide), pads)
    repeats = features // channels
    if repeats > 1:
        x = jnp.repeat(x, repeats, axis=-1)
    total = None
    for place in itertools.product(*map(range, window)):
        starts = [p * d for p, d in zip(place, dilation, strict=True)]
        ends = [
            start + (n - 1) * step + 1
            for start, n, step in zip(starts, positions, strides, strict=True)
        ]
        values = lax.slice(
            x,
            (0, *starts, 0),
            (x.shape[0], *ends, features),
            (1, *strides, 1),
        )
        weights = lax.broadcast_in_dim(
            kernel[(*place, 0)], values.shape, (values.ndim - 1,)
        )
        term = lax.mul(values, weights)
        total = term if total is None else lax.add(total, term)
    assert total is not None
    return lax.convert_element_type(total, dtype)


def _grouped(x: Array, kernel: Array, groups: int, xla: Any) -> Array:
    """Convolves at most some parts, each with the groups in it on a diagonal."""
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
    """Puts zeros between channels and features of different groups."""
    if groups == 1:
        return kernel
    *window, channels, features = kernel.shape
    split = kernel.reshape(*window, 1, channels, groups, features // groups)
    same = jnp.eye(groups, dtype=kernel.dtype)[:, None, :, None]
    return (split * same).reshape(*window, groups * channels, features)
