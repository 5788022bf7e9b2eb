"""Convolutions of channels-last arrays, with every padding that a layer may ask for.

Inputs have the shape (*batch, *spatial, channels), where batch axes may be missing;
kernels have the shape (*window, channels, features). The *extent* of a window is its
size after kernel dilation. Padding consists either of zeros, which the convolution of
`lax` adds itself, or of entries of the input, which are copied beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.errors.base import OptionError
from linsey.errors.layers import InputRankError, InvalidPaddingError
from linsey.ops.cpu.conv import convolve
from linsey.ops.cpu.conv_xla import Window
from linsey.ops.cpu.dispatch import Shape, has_static_shape, rewrites_convolutions
from linsey.ops.deferred import resolve
from linsey.ops.dot import add_bias
from linsey.ops.sharding import is_split, leave_to_compiler, split_axes
from linsey.typing import Dtype, PaddingLike, PrecisionLike

if TYPE_CHECKING:
    from jaxtyping import Num

PerAxis = int | Sequence[int] | None
Pairs = Sequence[tuple[int, int]]

_INT = (int, np.integer)
_COPIED = {"CIRCULAR": "wrap", "REFLECT": "reflect"}
_ZEROS = ("SAME", "VALID", "SAME_LOWER")
PADDINGS = (*_ZEROS, "CIRCULAR", "REFLECT", "CAUSAL")
TRANSPOSED_PADDINGS = (*_ZEROS, "CIRCULAR")


class Geometry(NamedTuple):
    """How a window moves over its input: one number for each spatial axis."""

    strides: tuple[int, ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]


# Quantization libraries replace the function of `jax.lax`, or its code object. If one
# has done so, the replacement is called.
_PLAIN = lax.conv_general_dilated
_CODE = _PLAIN.__code__


def conv(
    x: Num[Array, "*inputs channels"],
    kernel: Num[Array, "*window channels_of_group features"],
    bias: Num[Array, " features"] | None = None,
    *,
    strides: PerAxis = None,
    padding: PaddingLike = "SAME",
    input_dilation: PerAxis = None,
    kernel_dilation: PerAxis = None,
    feature_group_count: int = 1,
    precision: PrecisionLike = None,
    conv_general_dilated: Callable[..., Array] = lax.conv_general_dilated,
) -> Num[Array, "*outputs features"]:
    """Convolve `y[p, f] = sum_wc x[s p + d w - low, c] kernel[w, c, f] + bias[f]`.

    Args:
        x: inputs of shape (*batch, *spatial, channels).
        kernel: weights of shape (*window, channels // groups, features).
        bias: offsets of shape (features,). If `None`, nothing is added.
        strides: distance `s` between windows. Defaults to 1.
        padding: 'SAME', 'VALID', 'SAME_LOWER', 'CIRCULAR' (the input repeats),
            'REFLECT' (the input is mirrored), 'CAUSAL' (zeros before, one axis only), a
            number, or a sequence of numbers and (low, high) pairs.
        input_dilation: distance between the entries of `x`. Defaults to 1.
        kernel_dilation: distance `d` between the entries of the window. Defaults to 1.
        feature_group_count: number of groups of channels that do not mix.
        precision: see `jax.lax.Precision`.
        conv_general_dilated: replacement for `jax.lax.conv_general_dilated`, with the
            same arguments; its padding is always explicit. On a CPU, the default gives
            way to faster functions if there are any (`linsey.ops.cpu.conv`); any other
            function, even a `partial` of the default, is called as it is.

    Returns:
        Outputs of shape (*batch, *output spatial shape, features).

    Raises:
        InputRankError: `x` has no axis for each of the window and one for channels.
        InvalidPaddingError: the padding has none of these forms.
        OptionError: a sequence differs in length from the window; the padding is causal
            over several axes, or is given by name while the input is dilated.

    Example:
        >>> x = jnp.arange(4.0).reshape(1, 4, 1)
        >>> kernel = jnp.ones((2, 1, 1))
        >>> conv(x, kernel, padding="VALID").ravel().tolist()
        [1.0, 3.0, 5.0]
        >>> conv(x, kernel, padding="CIRCULAR").ravel().tolist()
        [1.0, 3.0, 5.0, 3.0]
    """
    x, kernel = resolve(x), resolve(kernel)
    window = kernel.shape[:-2]
    geometry = _geometry(len(window), strides, input_dilation, kernel_dilation)
    is_default = conv_general_dilated is _PLAIN and _PLAIN.__code__ is _CODE
    if is_default and rewrites_convolutions() and has_static_shape(x):
        conv_general_dilated = convolve
    groups = {"feature_group_count": feature_group_count, "precision": precision}
    function = partial(conv_general_dilated, **groups)
    return _slide(function, x, kernel, bias, window, padding, geometry)


def conv_local(
    x: Num[Array, "*inputs channels"],
    kernel: Num[Array, "*spatial channels_of_window features"],
    bias: Num[Array, "*spatial features"] | None = None,
    *,
    window: Sequence[int],
    strides: PerAxis = None,
    padding: PaddingLike = "SAME",
    input_dilation: PerAxis = None,
    kernel_dilation: PerAxis = None,
    precision: PrecisionLike = None,
) -> Num[Array, "*outputs features"]:
    """Convolve with a separate kernel for each spatial entry of the output.

    Args:
        x: inputs of shape (*batch, *spatial, channels).
        kernel: weights of shape
            (*output spatial shape, channels * prod(window), features).
        bias: offsets of shape (*output spatial shape, features). If `None`, nothing is
            added.
        window: size of the window, for each spatial axis.
        strides: see `conv`.
        padding: see `conv`.
        input_dilation: see `conv`.
        kernel_dilation: see `conv`.
        precision: see `jax.lax.Precision`.

    Returns:
        Outputs of shape (*batch, *output spatial shape, features).

    Raises:
        InputRankError: `x` has no axis for each of the window and one for channels.
        InvalidPaddingError: the padding has none of the forms that `conv` takes.
        OptionError: as for `conv`.

    Example:
        >>> x = jnp.ones((1, 3, 1))
        >>> kernel = jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
        >>> conv_local(x, kernel, window=(1,)).ravel().tolist()
        [1.0, 2.0, 3.0]
    """
    x, kernel, window = resolve(x), resolve(kernel), tuple(window)
    geometry = _geometry(len(window), strides, input_dilation, kernel_dilation)
    function = partial(
        lax.conv_general_dilated_local, filter_shape=window, precision=precision
    )
    return _slide(function, x, kernel, bias, window, padding, geometry)


def _slide(
    function: partial[Array],
    x: Array,
    kernel: Array,
    bias: Array | None,
    window: Shape,
    padding: PaddingLike,
    geometry: Geometry,
) -> Array:
    """Pad and convolve inputs with any number of batch axes, and add the bias."""
    rank = len(window)
    if is_split(x, kernel, bias):

        def slide(x: Array, kernel: Array, bias: Array | None) -> Array:
            return _slide(function, x, kernel, bias, window, padding, geometry)

        axes = *split_axes(x)[: -rank - 1], *[None] * rank, split_axes(kernel)[-1]
        return leave_to_compiler(slide, axes, x, kernel, bias)
    x, batch_shape = merge_batch_axes(x, rank)  # (batch, *spatial, channels)
    x, pads = _pad(x, padding, window, geometry)
    if function.func is convolve:  # its kernels add the bias
        function, bias = partial(function, bias=resolve(bias)), None
    y = function(
        x,
        kernel,
        geometry.strides,
        pads,
        lhs_dilation=geometry.input_dilation,
        rhs_dilation=geometry.kernel_dilation,
        dimension_numbers=channels_last(rank),
    )  # (batch, *output spatial shape, features)
    if bias is not None:
        y = add_bias(y, bias)
    return split_batch_axes(y, batch_shape)


def conv_transpose(
    x: Num[Array, "*inputs channels"],
    kernel: Num[Array, "*window rows columns"],
    bias: Num[Array, " features"] | None = None,
    *,
    strides: PerAxis = None,
    padding: PaddingLike = "SAME",
    kernel_dilation: PerAxis = None,
    transpose_kernel: bool = False,
    precision: PrecisionLike = None,
    preferred_element_type: Dtype | None = None,
) -> Num[Array, "*outputs features"]:
    """Spread each entry over a window: `y[s p + w, f] += x[p, c] kernel[w, c, f]`.

    This is the gradient of a convolution, used as a layer.

    Args:
        x: inputs of shape (*batch, *spatial, channels).
        kernel: weights of shape (*window, channels, features); with
            `transpose_kernel`, (*window, features, channels) and mirrored, as in the
            convolution whose gradient this is.
        bias: offsets of shape (features,). If `None`, nothing is added.
        strides: distance between windows in the output. Defaults to 1.
        padding: 'SAME', 'VALID', 'SAME_LOWER', 'CIRCULAR' (the output wraps around),
            a number, or a sequence of numbers and (low, high) pairs.
        kernel_dilation: distance between the entries of the window. Defaults to 1.
        transpose_kernel: whether the kernel is that of the convolution whose gradient
            this is.
        precision: see `jax.lax.Precision`.
        preferred_element_type: dtype in which products are summed and returned.

    Returns:
        Outputs of shape (*batch, *output spatial shape, features).

    Raises:
        InputRankError: `x` has no axis for each of the window and one for channels.
        InvalidPaddingError: the padding has none of these forms.
        OptionError: a sequence differs in length from the window.

    Example:
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> kernel = jnp.ones((2, 1, 1))
        >>> conv_transpose(x, kernel, strides=2).ravel().tolist()
        [1.0, 1.0, 2.0, 2.0]
    """
    x, kernel = resolve(x), resolve(kernel)
    rank = kernel.ndim - 2
    if is_split(x, kernel, bias):
        spread = partial(
            conv_transpose,
            strides=strides,
            padding=padding,
            kernel_dilation=kernel_dilation,
            transpose_kernel=transpose_kernel,
            precision=precision,
            preferred_element_type=preferred_element_type,
        )
        features = split_axes(kernel)[-2 if transpose_kernel else -1]
        axes = *split_axes(x)[: -rank - 1], *[None] * rank, features
        return leave_to_compiler(spread, axes, x, kernel, bias)
    steps = per_axis(strides, rank)
    x, batch_shape = merge_batch_axes(x, rank, "ConvTranspose")
    pads = canonicalize_padding(padding, rank)
    if isinstance(pads, str) and pads.upper() not in TRANSPOSED_PADDINGS:
        raise InvalidPaddingError(padding, rank, TRANSPOSED_PADDINGS)
    circular = isinstance(pads, str) and pads.upper() == "CIRCULAR"
    y = lax.conv_transpose(
        x,
        kernel,
        steps,
        "VALID" if circular else pads,
        rhs_dilation=per_axis(kernel_dilation, rank, "kernel_dilation"),
        dimension_numbers=channels_last(rank),
        transpose_kernel=transpose_kernel,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )  # (batch, *output spatial shape, features)
    if circular:
        periods = [n * s for n, s in zip(x.shape[1:-1], steps, strict=True)]
        y = _wrap(y, periods, surplus_first=not transpose_kernel)
    if bias is not None:
        y = add_bias(y, bias)
    return split_batch_axes(y, batch_shape)


def conv_output_shape(
    spatial: Sequence[int],
    window: Sequence[int],
    *,
    strides: PerAxis = None,
    padding: PaddingLike = "SAME",
    input_dilation: PerAxis = None,
    kernel_dilation: PerAxis = None,
) -> tuple[int, ...]:
    """Return the spatial shape of the output of `conv`, given that of the input.

    Example:
        >>> conv_output_shape((8, 8), (3, 3), strides=2, padding="VALID")
        (3, 3)
    """
    spatial, window = tuple(spatial), tuple(window)
    geometry = _geometry(len(window), strides, input_dilation, kernel_dilation)
    mode, pads = _resolve_padding(padding, spatial, window, geometry)
    if mode:  # the padding is copied beforehand, which makes the input larger
        spatial = tuple(n + sum(pair) for n, pair in zip(spatial, pads, strict=True))
        pads = ((0, 0),) * len(pads)
    strides, input_dilation, kernel_dilation = geometry
    moves = Window(window, strides, tuple(pads), input_dilation, kernel_dilation, 1)
    return tuple(max(size, 0) for size in moves.output_shape(spatial))


def canonicalize_padding(
    padding: PaddingLike, rank: int
) -> str | list[tuple[int, int]]:
    """Write a padding as a name or as one (low, high) pair for each spatial axis.

    Args:
        padding: a name, a number, or a sequence of numbers and pairs.
        rank: number of spatial axes.

    Returns:
        The name as it was given, or a list of `rank` pairs.

    Raises:
        InvalidPaddingError: the padding has none of these forms.

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


def per_axis(value: PerAxis, rank: int, name: str = "strides") -> tuple[int, ...]:
    """Repeat a number for each spatial axis. If `None`, the number is 1.

    Raises:
        OptionError: a sequence does not have `rank` entries.

    Example:
        >>> per_axis(2, 3), per_axis(None, 1), per_axis([1, 2], 2)
        ((2, 2, 2), (1,), (1, 2))
    """
    if value is None:
        return (1,) * rank
    if isinstance(value, _INT):
        return (value,) * rank
    if len(value) != rank:
        raise OptionError(
            f"`{name}` is {value} for a window with {rank} spatial axes.",
            "Each spatial axis needs one entry.",
            f"Write `{name}={(2,) * rank}`, or `{name}=2` for all axes.",
        )
    return tuple(value)


def merge_batch_axes(
    x: Array, rank: int, layer: str = "Conv"
) -> tuple[Array, tuple[int, ...] | None]:
    """Merge all axes before `rank` spatial ones and the channels into one batch axis.

    Returns:
        The array, and the batch shape for `split_batch_axes`, or `None` if there is
        just one batch axis.
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
    """Undo `merge_batch_axes`."""
    if batch_shape is None:
        return y
    return lax.reshape(y, (*batch_shape, *y.shape[1:]))


@lru_cache
def channels_last(rank: int) -> lax.ConvDimensionNumbers:
    """Return the dimension numbers of (batch, *spatial, channels) for `jax.lax`."""
    spatial = tuple(range(rank))
    outer = (0, rank + 1, *(axis + 1 for axis in spatial))
    return lax.ConvDimensionNumbers(outer, (rank + 1, rank, *spatial), outer)


def _geometry(
    rank: int, strides: PerAxis, input_dilation: PerAxis, kernel_dilation: PerAxis
) -> Geometry:
    return Geometry(
        per_axis(strides, rank),
        per_axis(input_dilation, rank, "input_dilation"),
        per_axis(kernel_dilation, rank, "kernel_dilation"),
    )


def _pad(
    x: Array, padding: PaddingLike, window: tuple[int, ...], geometry: Geometry
) -> tuple[Array, Pairs | str]:
    """Add padding that is copied from the input; leave zeros to the convolution."""
    if isinstance(padding, str) and not has_static_shape(x):
        if padding.upper() in _ZEROS and set(geometry.input_dilation) <= {1}:
            return x, padding.upper()
    mode, pads = _resolve_padding(padding, x.shape[1:-1], window, geometry)
    if mode is None:
        return x, pads
    if has_static_shape(x):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode=mode)
    else:  # `jnp.pad` refuses, because the input could be shorter than its padding
        for axis, (low, high) in enumerate(pads, start=1):
            x = _copy_ends(x, axis, low, high, mode)
    return x, ((0, 0),) * len(pads)


def _copy_ends(x: Array, axis: int, low: int, high: int, mode: str) -> Array:
    """Pad an axis of symbolic size with entries from its ends."""
    size, edge = x.shape[axis], int(mode == "reflect")
    ends = (edge, edge + low), (size - edge - high, size - edge)
    spans = ends if edge else ((size - low, size), (0, high))
    before, after = (lax.slice_in_dim(x, *span, axis=axis) for span in spans)
    if edge:
        before, after = (lax.rev(part, (axis,)) for part in (before, after))
    return lax.concatenate([before, x, after], axis)


def _resolve_padding(
    padding: PaddingLike, spatial: Shape, window: Shape, geometry: Geometry
) -> tuple[str | None, Pairs]:
    """Return the `jnp.pad` mode, or `None` for zeros, and the (low, high) pairs."""
    pairs = canonicalize_padding(padding, len(window))
    if isinstance(pairs, str):
        return _resolve_name(pairs.upper(), spatial, window, geometry)
    return None, pairs


@lru_cache(maxsize=4096)
def _resolve_name(
    padding: str, spatial: tuple[int, ...], window: tuple[int, ...], geometry: Geometry
) -> tuple[str | None, Pairs]:
    strides, input_dilation, kernel_dilation = geometry
    rank = len(window)
    extents = [(w - 1) * d + 1 for w, d in zip(window, kernel_dilation, strict=True)]
    if padding in _COPIED:
        return _COPIED[padding], tuple(((e - 1) // 2, e // 2) for e in extents)
    if padding == "CAUSAL":
        if rank != 1:
            raise OptionError(
                "Causal padding is only implemented for 1D convolutions: found a "
                f"kernel with {rank} spatial axes.",
                "With several axes it is not known which of them is time.",
                "Pad that axis alone, for example `padding=[(2, 0), (1, 1)]`.",
            )
        return None, ((input_dilation[0] * (extents[0] - 1), 0),)
    if padding not in _ZEROS:
        raise InvalidPaddingError(padding, rank, PADDINGS)
    if any(spread != 1 for spread in input_dilation):
        raise OptionError(
            f"Padding '{padding}' was given with input_dilation {input_dilation}.",
            "String padding is not implemented for transposed convolution using this "
            "layer: its size could be meant before or after dilation.",
            f"Write the numbers, `padding={[(1, 1)] * rank}`, or use `ConvTranspose`.",
        )
    pairs = lax.padtype_to_pads(spatial, extents, strides, padding)
    return None, tuple((int(low), int(high)) for low, high in pairs)


def _wrap(y: Array, periods: Sequence[int], *, surplus_first: bool) -> Array:
    """Add up entries that lie whole periods apart, so that the output is one period.

    The window is centred on its entry. If it cannot be, because the surplus of the
    output over the period is odd, the longer side comes first if `surplus_first`.
    """
    pads, folded, copies = [(0, 0, 0)], [y.shape[0]], []
    for axis, period in enumerate(periods, start=1):
        size = y.shape[axis]
        missing = (period - size) % (2 * period)
        shift = ((missing + surplus_first) // 2) % period
        pads.append((shift, -(size + shift) % period, 0))
        copies.append(len(folded))
        folded += [(size + shift + period - 1) // period, period]
    pads.append((0, 0, 0))
    y = lax.pad(y, jnp.zeros((), y.dtype), pads)
    return lax.reshape(y, (*folded, y.shape[-1])).sum(axis=tuple(copies))
