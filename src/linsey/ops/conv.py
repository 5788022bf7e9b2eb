"""Convolutions over channels-last arrays, with every padding a layer may ask for.

Inputs are `(*batch, *spatial, channels)` with any number of batch axes, none
included; kernels are `(*window, channels, features)`. The *extent* of a window is its
size with the holes of dilation. *Margins* are what surrounds the input: either zeros,
which the convolution adds itself, or entries of the input, which are copied first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.errors.layers import (
    CausalPaddingError,
    DilatedPaddingError,
    InputRankError,
    InvalidPaddingError,
    PerAxisError,
)
from linsey.ops.cpu.conv import convolve
from linsey.ops.cpu.dispatch import on_cpu
from linsey.ops.dot import add_bias

Pairs = Sequence[tuple[int, int]]

_INT = (int, np.integer)
_COPIED = {"CIRCULAR": "wrap", "REFLECT": "reflect"}
_ZEROS = ("SAME", "VALID", "SAME_LOWER")
PADDINGS = (*_ZEROS, "CIRCULAR", "REFLECT", "CAUSAL")


def canonicalize_padding(padding: Any, rank: int) -> str | list[tuple[int, int]]:
    """Writes a padding as a name or as one (low, high) pair for each spatial axis.

    Args:
        padding: a name, a number, or a sequence of numbers and pairs.
        rank: number of spatial axes.

    Returns:
        The name as it was given, or a list of `rank` pairs.

    Raises:
        InvalidPaddingError: the padding is none of these forms.

    Example:
        >>> canonicalize_padding((1, (0, 2)), 2)
        [(1, 1), (0, 2)]
    """
    if isinstance(padding, str):
        return padding
    if isinstance(padding, _INT):
        return [(int(padding), int(padding))] * rank
    if isinstance(padding, Sequence) and len(padding) == rank:
        pairs = [(pad, pad) if isinstance(pad, _INT) else pad for pad in padding]
        if all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
            return [(int(low), int(high)) for low, high in pairs]
    raise InvalidPaddingError(padding, rank, PADDINGS)


def conv(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    strides: int | Sequence[int] | None = None,
    padding: Any = "SAME",
    input_dilation: int | Sequence[int] | None = None,
    kernel_dilation: int | Sequence[int] | None = None,
    feature_group_count: int = 1,
    precision: Any = None,
    conv_general_dilated: Callable[..., Array] = lax.conv_general_dilated,
) -> Array:
    """Convolves: `y[p, f] = sum_wc x[s p + d w - low, c] kernel[w, c, f] + bias[f]`.

    Args:
        x: inputs of shape (*batch, *spatial, channels).
        kernel: weights of shape (*window, channels // groups, features).
        bias: offsets of shape (features,), or none.
        strides: distance `s` between windows; none means 1.
        padding: 'SAME', 'VALID', 'SAME_LOWER', 'CIRCULAR' (the input repeats),
            'REFLECT' (it is mirrored), 'CAUSAL' (zeros before, one axis only), a
            number, or numbers and (low, high) pairs.
        input_dilation: distance between the entries of `x`; none means 1.
        kernel_dilation: distance `d` between the entries of the window.
        feature_group_count: number of groups of channels that do not mix.
        precision: see `jax.lax.Precision`.
        conv_general_dilated: what computes it, called like the function of `jax.lax`;
            the padding it gets is always explicit. On a CPU the default is replaced by
            something faster where there is (`linsey.ops.cpu.conv`); another function,
            such as a `partial` of the default, never.

    Returns:
        Outputs of shape (*batch, *positions, features).

    Raises:
        InputRankError: `x` has no axis for each of the window and one for channels.
        InvalidPaddingError: the padding is none of these forms.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(4.0).reshape(1, 4, 1)
        >>> kernel = jnp.ones((2, 1, 1))
        >>> conv(x, kernel, padding="VALID").ravel().tolist()
        [1.0, 3.0, 5.0]
        >>> conv(x, kernel, padding="CIRCULAR").ravel().tolist()
        [1.0, 3.0, 5.0, 3.0]
    """
    window = kernel.shape[:-2]
    rank = len(window)
    geometry = (
        per_axis(strides, rank),
        per_axis(input_dilation, rank, "input_dilation"),
        per_axis(kernel_dilation, rank, "kernel_dilation"),
    )
    x, batch_shape = merge_batch_axes(x, rank)  # (batch, *spatial, channels)
    x, margins = _pad(x, padding, window, geometry)
    steps, holes, dilation = geometry
    if conv_general_dilated is lax.conv_general_dilated:
        if on_cpu():
            conv_general_dilated = convolve
    y = conv_general_dilated(
        x,
        kernel,
        steps,
        margins,
        lhs_dilation=holes,
        rhs_dilation=dilation,
        dimension_numbers=channels_last(rank),
        feature_group_count=feature_group_count,
        precision=precision,
    )  # (batch, *positions, features)
    if bias is not None:
        y = add_bias(y, bias)
    return split_batch_axes(y, batch_shape)


def conv_local(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    window: Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Any = "SAME",
    input_dilation: int | Sequence[int] | None = None,
    kernel_dilation: int | Sequence[int] | None = None,
    precision: Any = None,
) -> Array:
    """Convolves with a kernel of its own at every position.

    Args:
        x: inputs of shape (*batch, *spatial, channels).
        kernel: weights of shape (*positions, channels * prod(window), features).
        bias: offsets of shape (*positions, features), or none.
        window: size of the window, for each spatial axis.
        strides: as in `conv`, like the arguments that follow.
        padding: see `conv`.
        input_dilation: see `conv`.
        kernel_dilation: see `conv`.
        precision: see `jax.lax.Precision`.

    Returns:
        Outputs of shape (*batch, *positions, features).

    Raises:
        InputRankError: `x` has no axis for each of the window and one for channels.
        InvalidPaddingError: the padding is none of the forms that `conv` takes.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.ones((1, 3, 1))
        >>> kernel = jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
        >>> conv_local(x, kernel, window=(1,)).ravel().tolist()
        [1.0, 2.0, 3.0]
    """
    rank = len(window)
    geometry = (
        per_axis(strides, rank),
        per_axis(input_dilation, rank, "input_dilation"),
        per_axis(kernel_dilation, rank, "kernel_dilation"),
    )
    x, batch_shape = merge_batch_axes(x, rank)  # (batch, *spatial, channels)
    x, margins = _pad(x, padding, tuple(window), geometry)
    steps, holes, dilation = geometry
    y = lax.conv_general_dilated_local(
        x,
        kernel,
        steps,
        margins,
        window,
        lhs_dilation=holes,
        rhs_dilation=dilation,
        dimension_numbers=channels_last(rank),
        precision=precision,
    )  # (batch, *positions, features)
    if bias is not None:
        y = add_bias(y, bias)
    return split_batch_axes(y, batch_shape)


def conv_positions(
    spatial: Sequence[int],
    window: Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Any = "SAME",
    input_dilation: int | Sequence[int] | None = None,
    kernel_dilation: int | Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Counts the positions of the window on each spatial axis; see `conv`.

    Example:
        >>> conv_positions((8, 8), (3, 3), strides=2, padding="VALID")
        (3, 3)
    """
    rank = len(window)
    steps = per_axis(strides, rank)
    holes = per_axis(input_dilation, rank, "input_dilation")
    dilation = per_axis(kernel_dilation, rank, "kernel_dilation")
    mode, margins = _margins(
        padding, tuple(spatial), tuple(window), (steps, holes, dilation)
    )
    positions = []
    for axis, (low, high) in enumerate(margins):
        size = spatial[axis] + (low + high if mode else 0)
        size = (size - 1) * holes[axis] + 1 + (0 if mode else low + high)
        room = size - (window[axis] - 1) * dilation[axis] - 1
        positions.append(max(room // steps[axis] + 1, 0))
    return tuple(positions)


def per_axis(
    value: int | Sequence[int] | None, rank: int, name: str = "strides"
) -> tuple[int, ...]:
    """Repeats a number for each spatial axis; none means 1.

    Raises:
        PerAxisError: a sequence has not `rank` entries.

    Example:
        >>> per_axis(2, 3), per_axis(None, 1), per_axis([1, 2], 2)
        ((2, 2, 2), (1,), (1, 2))
    """
    if value is None:
        return (1,) * rank
    if isinstance(value, _INT):
        return (value,) * rank
    if len(value) != rank:
        raise PerAxisError(name, value, rank)
    return tuple(value)


def merge_batch_axes(
    x: Array, rank: int, layer: str = "Conv"
) -> tuple[Array, tuple[int, ...] | None]:
    """Makes all axes before `rank` spatial ones and the channels a single batch axis.

    Returns:
        The array, and the batch axes for `split_batch_axes`: none if it had just one.
    """
    batch = x.ndim - rank - 1
    if batch == 1:
        return x, None
    shape = x.shape
    if batch < 0:
        raise InputRankError(layer, shape, ", ".join([*["spatial"] * rank, "channels"]))
    merged = lax.reshape(x, (math.prod(shape[:batch]), *shape[batch:]))
    return merged, shape[:batch]


def split_batch_axes(y: Array, batch_shape: tuple[int, ...] | None) -> Array:
    """Undoes `merge_batch_axes`."""
    if batch_shape is None:
        return y
    return lax.reshape(y, (*batch_shape, *y.shape[1:]))


@lru_cache
def channels_last(rank: int) -> lax.ConvDimensionNumbers:
    """Says which axes are which for `(batch, *spatial, channels)`, as lax wants it."""
    spatial = tuple(range(rank))
    outer = (0, rank + 1, *(axis + 1 for axis in spatial))
    return lax.ConvDimensionNumbers(outer, (rank + 1, rank, *spatial), outer)


Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _pad(
    x: Array, padding: Any, window: tuple[int, ...], geometry: Geometry
) -> tuple[Array, Pairs]:
    """Copies margins that come from the input; leaves zeros to the convolution."""
    mode, margins = _margins(padding, x.shape[1:-1], window, geometry)
    if mode is None:
        return x, margins
    x = jnp.pad(x, ((0, 0), *margins, (0, 0)), mode=mode)
    return x, ((0, 0),) * len(margins)


def _margins(
    padding: Any, spatial: tuple[int, ...], window: tuple[int, ...], geometry: Geometry
) -> tuple[str | None, Pairs]:
    """Sizes the margins: how entries are copied if they are, and (low, high) pairs."""
    pairs = canonicalize_padding(padding, len(window))
    if isinstance(pairs, str):
        return _named_margins(pairs.upper(), spatial, window, geometry)
    return None, pairs


@lru_cache(maxsize=4096)
def _named_margins(
    padding: str, spatial: tuple[int, ...], window: tuple[int, ...], geometry: Geometry
) -> tuple[str | None, Pairs]:
    strides, holes, dilation = geometry
    extents = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    if padding in _COPIED:
        return _COPIED[padding], tuple(((e - 1) // 2, e // 2) for e in extents)
    if padding == "CAUSAL":
        if len(window) != 1:
            raise CausalPaddingError(len(window))
        return None, ((holes[0] * (extents[0] - 1), 0),)
    if padding not in _ZEROS:
        raise InvalidPaddingError(padding, len(window), PADDINGS)
    if any(hole != 1 for hole in holes):
        raise DilatedPaddingError(padding, holes)
    pairs = lax.padtype_to_pads(spatial, extents, strides, padding)
    return None, tuple((int(low), int(high)) for low, high in pairs)
