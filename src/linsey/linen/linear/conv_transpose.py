"""The transposed convolution layer, which makes inputs larger."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from linsey.linen.dtypes import PromoteDtypeFn, promote_dtype
from linsey.linen.initializers import zeros
from linsey.linen.linear.conv import input_channels, masked_kernel_and_bias
from linsey.linen.linear.dense import as_tuple, default_kernel_init
from linsey.linen.module import Module, compact
from linsey.ops.conv_transpose import conv_transpose
from linsey.typing import Dtype, Initializer, PaddingLike, PrecisionLike


class ConvTranspose(Module):
    """Spreads every entry over a window: `y[s p + w, f] += x[p, c] kernel[w, c, f]`.

    Attributes:
        features: number of output features.
        kernel_size: size of the window for each spatial axis; a number means one axis.
        strides: distance between windows in the output, by which it is larger.
        padding: 'SAME', 'VALID', 'CIRCULAR' (the output wraps around), a number, or
            numbers and (low, high) pairs for each axis.
        kernel_dilation: distance between the entries of the window.
        use_bias: whether to add a bias.
        mask: array of the shape of the kernel that is multiplied with it.
        dtype: dtype of the computation; none means that of inputs and parameters.
        param_dtype: dtype of the parameters.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`, of shape
            (*kernel_size, channels, features).
        bias_init: initializer of `bias`, of shape (features,).
        transpose_kernel: take the kernel of the convolution whose gradient this is:
            mirrored, of shape (*kernel_size, features, channels).
        promote_dtype: brings `(inputs, kernel, bias)` to one dtype.
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
        """Spreads `inputs` of shape (*batch, *spatial, channels).

        Returns:
            Outputs of shape (*batch, *positions, features). There may be any number of
            batch axes, also none.

        Raises:
            InputRankError: `inputs` has fewer axes than the window needs.
            MaskShapeError: `mask` has not the shape of the kernel.
        """
        window, features = as_tuple(self.kernel_size), self.features
        channels = input_channels("ConvTranspose", np.shape(inputs), len(window))
        ends = (features, channels) if self.transpose_kernel else (channels, features)
        kernel, bias = masked_kernel_and_bias(
            "ConvTranspose", self, (*window, *ends), (features,)
        )
        x, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return conv_transpose(
            x,
            kernel,
            bias,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            transpose_kernel=self.transpose_kernel,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
        )
