"""Transposed convolutions: the gradient of a convolution used as a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from linsey.errors.layers import InvalidPaddingError
from linsey.ops.conv import (
    canonicalize_padding,
    channels_last,
    merge_batch_axes,
    per_axis,
    split_batch_axes,
)
from linsey.ops.dot import add_bias

PADDINGS = ("SAME", "VALID", "SAME_LOWER", "CIRCULAR")


def conv_transpose(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    strides: int | Sequence[int] | None = None,
    padding: Any = "SAME",
    kernel_dilation: int | Sequence[int] | None = None,
    transpose_kernel: bool = False,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """Spreads each entry over a window: `y[s p + w, f] += x[p, c] kernel[w, c, f]`.

    Args:
        x: inputs of shape (*batch, *spatial, channels).
        kernel: weights of shape (*window, channels, features); with
            `transpose_kernel`, (*window, features, channels) and mirrored, as the
            convolution has it whose gradient this is.
        bias: offsets of shape (features,), or none.
        strides: distance between windows in the output; none means 1.
        padding: 'SAME', 'VALID', 'SAME_LOWER', 'CIRCULAR' (the output wraps around),
            a number, or numbers and (low, high) pairs.
        kernel_dilation: distance between the entries of the window; none means 1.
        transpose_kernel: the kernel is that of the convolution in the other direction.
        precision: see `jax.lax.Precision`.
        preferred_element_type: dtype in which products are summed and returned.

    Returns:
        Outputs of shape (*batch, *positions, features).

    Raises:
        InputRankError: `x` has no axis for each of the window and one for channels.
        InvalidPaddingError: the padding is none of these forms.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
        >>> kernel = jnp.ones((2, 1, 1))
        >>> conv_transpose(x, kernel, strides=2).ravel().tolist()
        [1.0, 1.0, 2.0, 2.0]
    """
    rank = kernel.ndim - 2
    steps = per_axis(strides, rank)
    x, batch_shape = merge_batch_axes(x, rank, "ConvTranspose")
    pads = canonicalize_padding(padding, rank)
    if isinstance(pads, str) and pads.upper() not in PADDINGS:
        raise InvalidPaddingError(padding, rank, PADDINGS)
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
    )  # (batch, *positions, features)
    if circular:
        periods = [n * s for n, s in zip(x.shape[1:-1], steps, strict=True)]
        y = _wrap(y, periods, surplus_first=not transpose_kernel)
    if bias is not None:
        y = add_bias(y, bias)
    return split_batch_axes(y, batch_shape)


def _wrap(y: Array, periods: Sequence[int], *, surplus_first: bool) -> Array:
    """Adds up what lies whole periods apart, so that the output is one period.

    The window is centred on its entry. When it cannot be, because the surplus of the
    output over the period is odd, the longer side is the first if `surplus_first`.
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
