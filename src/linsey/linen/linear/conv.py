"""Convolutional layers: with shared kernels, with local kernels, and transposed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.errors.base import OptionError, ShapeError, UnsupportedError
from linsey.errors.layers import InputRankError
from linsey.linen.dtypes import Dtype, PromoteDtypeFn, promote_dtype
from linsey.linen.initializers import zeros
from linsey.linen.linear.dense import as_tuple, default_kernel_init, kernel_and_bias
from linsey.linen.module import Module, compact, nowrap
from linsey.ops.conv import conv, conv_local, conv_output_shape, conv_transpose
from linsey.ops.deferred import Deferred
from linsey.typing import ConvGeneralDilatedT, Initializer, PaddingLike, PrecisionLike

__all__ = ["Conv", "ConvLocal", "ConvTranspose"]


class _Conv(Module):
    """The fields that `Conv` and `ConvLocal` share."""

    features: int
    kernel_size: int | Sequence[int]
    strides: None | int | Sequence[int] = 1
    padding: PaddingLike = "SAME"
    input_dilation: None | int | Sequence[int] = 1
    kernel_dilation: None | int | Sequence[int] = 1
    feature_group_count: int = 1
    use_bias: bool = True
    mask: Array | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros
    promote_dtype: PromoteDtypeFn = promote_dtype
    conv_general_dilated: ConvGeneralDilatedT | None = None
    conv_general_dilated_cls: Callable[[], ConvGeneralDilatedT] | None = None


class Conv(_Conv):
    """Convolve channels-last inputs with a kernel that is shared by the whole output.

    `y[p, f] = sum_{w, c} x[s p + d w - low, c] kernel[w, c, f] + bias[f]`, with stride
    `s`, kernel dilation `d` and the padding `low` before the input.

    Attributes:
        features: number of output features.
        kernel_size: size of the window along each spatial axis; a number means that
            there is one axis.
        strides: step between windows: one number, or one for each axis.
        padding: 'SAME', 'VALID', 'CIRCULAR' (the input wraps around), 'REFLECT' (it is
            mirrored), 'CAUSAL' (zeros before the input, one axis only), a number, or
            for each axis a number or a (low, high) pair.
        input_dilation: distance between the entries of the input.
        kernel_dilation: distance between the entries of the window.
        feature_group_count: number of groups into which the channels are divided; each
            is convolved separately.
        use_bias: whether to add a bias.
        mask: array that the kernel is multiplied by, of the same shape.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`, of shape
            (*kernel_size, channels // groups, features).
        bias_init: initializer of `bias`, of shape (features,).
        promote_dtype: converts `(inputs, kernel, bias)` to a common dtype.
        conv_general_dilated: computes the convolution in place of the function in
            `jax.lax`; it is called with explicit paddings.
        conv_general_dilated_cls: builds such a function.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.Conv(features=4, kernel_size=(3, 3), strides=2)
        >>> y, variables = layer.init_with_output(
        ...     jax.random.key(0), jnp.ones((1, 8, 8, 3))
        ... )
        >>> y.shape, variables["params"]["kernel"].shape
        ((1, 4, 4, 4), (3, 3, 3, 4))
    """

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Convolve `inputs` of shape (*batch, *spatial, channels).

        Returns:
            Outputs of shape (*batch, *output spatial shape, features). There may
            be any number of batch axes, or no batch axis.

        Raises:
            InputRankError: `inputs` has fewer axes than the window needs.
            OptionError: the groups do not divide the features.
            ShapeError: `mask` does not have the shape of the kernel.
        """
        window, features = as_tuple(self.kernel_size), self.features
        channels = input_channels("Conv", np.shape(inputs), len(window))
        groups = self.feature_group_count
        for which, count in (("input", channels), ("output", features)):
            if groups != 1 and count % groups:
                raise OptionError(
                    f"`Conv` has feature_group_count={groups} and {count} {which} "
                    "features.",
                    f"{count} is not a multiple of {groups}: the groups would differ "
                    "in size.",
                    "Choose a `feature_group_count` that divides both the input "
                    "features and `features`.",
                )
        shape = (*window, channels // groups, features)
        kernel, bias = masked_kernel_and_bias("Conv", self, shape, (features,))
        if isinstance(inputs, Deferred) and self.conv_general_dilated_cls is None:
            return inputs.feed(self._convolve, kernel, bias)
        return self._convolve(inputs, kernel, bias)

    @nowrap
    def _convolve(self, inputs: Array, kernel: Array, bias: Array | None) -> Array:
        convolve = self.conv_general_dilated
        if self.conv_general_dilated_cls is not None:
            convolve = self.conv_general_dilated_cls()
        operands = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return conv(
            *operands,
            strides=self.strides,
            padding=self.padding,
            input_dilation=self.input_dilation,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
            precision=self.precision,
            conv_general_dilated=convolve or lax.conv_general_dilated,
        )


class ConvLocal(_Conv):
    """Convolve channels-last inputs with a separate kernel for each output location.

    Also known as a locally connected layer. `feature_group_count` must be 1; the other
    attributes are those of `Conv`, with these parameters: `kernel` of shape
    (*output spatial shape, channels * prod(kernel_size), features) and `bias` of shape
    (*output spatial shape, features).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.ConvLocal(features=4, kernel_size=(3,), padding="VALID")
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 3)))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (6, 4), 'kernel': (6, 9, 4)}}
    """

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Convolve `inputs` of shape (*batch, *spatial, channels).

        Returns:
            Outputs of shape (*batch, *output spatial shape, features).

        Raises:
            InputRankError: `inputs` has fewer axes than the window needs.
            UnsupportedError: `feature_group_count` is not 1.
            ShapeError: `mask` does not have the shape of the kernel.
        """
        if self.feature_group_count != 1:
            raise UnsupportedError(
                "`ConvLocal` was given `feature_group_count` "
                f"{self.feature_group_count}.",
                "`lax.conv_general_dilated_local` does not support "
                "`feature_group_count != 1`.",
                "Use one group, or `Conv`, which uses one kernel everywhere.",
            )
        window, features = as_tuple(self.kernel_size), self.features
        shape = np.shape(inputs)
        channels = input_channels("ConvLocal", shape, len(window))
        spatial = conv_output_shape(
            shape[-len(window) - 1 : -1],
            window,
            strides=self.strides,
            padding=self.padding,
            input_dilation=self.input_dilation,
            kernel_dilation=self.kernel_dilation,
        )
        shape = (*spatial, math.prod(window) * channels, features)
        bias_shape = (*spatial, features)
        kernel, bias = masked_kernel_and_bias("ConvLocal", self, shape, bias_shape)
        operands = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return conv_local(
            *operands,
            window=window,
            strides=self.strides,
            padding=self.padding,
            input_dilation=self.input_dilation,
            kernel_dilation=self.kernel_dilation,
            precision=self.precision,
        )


class ConvTranspose(Module):
    """Transposed convolution: `y[s p + w, f] += x[p, c] kernel[w, c, f]`.

    Attributes:
        features: number of output features.
        kernel_size: size of the window along each spatial axis; a number means that
            there is one axis.
        strides: step between windows in the output, the factor by which it grows.
        padding: 'SAME', 'VALID', 'CIRCULAR' (the output wraps around), a number, or
            for each axis a number or a (low, high) pair.
        kernel_dilation: distance between the entries of the window.
        use_bias: whether to add a bias.
        mask: array that the kernel is multiplied by, of the same shape.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`, of shape
            (*kernel_size, channels, features).
        bias_init: initializer of `bias`, of shape (features,).
        transpose_kernel: whether to use the kernel of the convolution whose gradient
            this is: mirrored, of shape (*kernel_size, features, channels).
        promote_dtype: converts `(inputs, kernel, bias)` to a common dtype.
        preferred_element_type: dtype in which products are summed and returned.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.ConvTranspose(features=4, kernel_size=(3, 3), strides=(2, 2))
        >>> y, variables = layer.init_with_output(
        ...     jax.random.key(0), jnp.ones((1, 8, 8, 3))
        ... )
        >>> y.shape, variables["params"]["kernel"].shape
        ((1, 16, 16, 4), (3, 3, 3, 4))
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: Sequence[int] | None = None
    padding: PaddingLike = "SAME"
    kernel_dilation: Sequence[int] | None = None
    use_bias: bool = True
    mask: Array | None = None
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros
    transpose_kernel: bool = False
    promote_dtype: PromoteDtypeFn = promote_dtype
    preferred_element_type: Dtype | None = None

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Apply the transposed convolution to (*batch, *spatial, channels) inputs.

        Returns:
            Outputs of shape (*batch, *output spatial shape, features). There may
            be any number of batch axes, or no batch axis.

        Raises:
            InputRankError: `inputs` has fewer axes than the window needs.
            ShapeError: `mask` does not have the shape of the kernel.
        """
        window, features = as_tuple(self.kernel_size), self.features
        channels = input_channels("ConvTranspose", np.shape(inputs), len(window))
        ends = (features, channels) if self.transpose_kernel else (channels, features)
        shape = (*window, *ends)
        kernel, bias = masked_kernel_and_bias("ConvTranspose", self, shape, (features,))
        operands = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return conv_transpose(
            *operands,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            transpose_kernel=self.transpose_kernel,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
        )


def input_channels(layer: str, shape: Sequence[int], rank: int) -> int:
    """Return the number of channels, after checking that no axis is missing."""
    if len(shape) <= rank:
        axes = ", ".join(["spatial"] * rank + ["channels"])
        raise InputRankError(layer, shape, axes)
    return shape[-1]


def masked_kernel_and_bias(
    name: str, layer: Module, kernel_shape: tuple[int, ...], bias_shape: tuple[int, ...]
) -> tuple[Array, Array | None]:
    """Return the parameters of a layer, with the kernel multiplied by its mask."""
    mask = layer.mask
    if mask is not None and jnp.shape(mask) != kernel_shape:
        raise ShapeError(
            "Mask needs to have the same shape as weights. "
            f"Shapes are: {jnp.shape(mask)}, {kernel_shape} in `{name}`.",
            "The mask is multiplied with the kernel, entry by entry.",
            f"Pass a mask of shape {kernel_shape}, for example "
            f"`jnp.broadcast_to(mask, {kernel_shape})`.",
        )
    kernel, bias = kernel_and_bias(layer, kernel_shape, bias_shape)
    return (kernel if mask is None else kernel * mask), bias
