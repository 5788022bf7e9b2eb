"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

import linsey.linen as linen
from linsey.linen.initializers import zeros
from linsey.treex.kinds import Parameter
from linsey.treex.nn.linear import as_window, default_kernel_init
from linsey.treex.nn.linen_layer import LinenLayer
from linsey.typing import Dtype, Initializer, PaddingLike, PrecisionLike


class Conv(LinenLayer):
    """Convolves channels-last inputs, see `linsey.linen.Conv`.

    Args:
        features_out: number of output features.
        kernel_size: size of the window for each spatial axis; a number means one axis.
        strides: distance between windows.
        padding: 'SAME', 'VALID', 'CIRCULAR', 'CAUSAL' (one axis only), or a pair of
            numbers for each axis.
        input_dilation: distance between the entries of the input.
        kernel_dilation: distance between the entries of the window.
        feature_group_count: number of groups of channels that do not mix.
        use_bias: whether to add a bias.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`, of shape
            (*kernel_size, channels // groups, features_out).
        bias_init: initializer of `bias`, of shape (features_out,).

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> x = jnp.ones((1, 8, 8, 3))
        >>> tx.Conv(4, (3, 3), strides=2).init(42, x)(x).shape
        (1, 4, 4, 4)
    """

    linen_class = linen.Conv
    linen_names = {"features_out": "features"}

    kernel: jax.Array | None = Parameter.node()
    bias: jax.Array | None = Parameter.node()

    def __init__(
        self,
        features_out: int,
        kernel_size: int | Sequence[int],
        *,
        strides: None | int | Sequence[int] = None,
        padding: PaddingLike = "SAME",
        input_dilation: None | int | Sequence[int] = None,
        kernel_dilation: None | int | Sequence[int] = None,
        feature_group_count: int = 1,
        use_bias: bool = True,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = default_kernel_init,
        bias_init: Initializer = zeros,
    ) -> None:
        self.features_out = features_out
        self.kernel_size = as_window(kernel_size)
        self.strides = strides
        self.padding = padding
        self.input_dilation = input_dilation
        self.kernel_dilation = kernel_dilation
        self.feature_group_count = feature_group_count
        self.use_bias = use_bias
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.kernel_init = kernel_init
        self.bias_init = bias_init
        self.kernel = None
        self.bias = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `x` of shape (*batch, *spatial, channels).

        Raises:
            NotInitializedError: the layer has no parameters yet.
        """
        if self.initializing():
            self.make_variables(x)
        return self.run(x)


class ConvTranspose(LinenLayer):
    """Spreads every entry over a window, see `linsey.linen.ConvTranspose`.

    Args:
        features_out: number of output features.
        kernel_size: size of the window for each spatial axis; a number means one axis.
        strides: distance between windows in the output.
        padding: 'SAME', 'VALID', 'CIRCULAR', or a pair of numbers for each axis.
        kernel_dilation: distance between the entries of the window.
        use_bias: whether to add a bias.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`, of shape
            (*kernel_size, channels, features_out).
        bias_init: initializer of `bias`, of shape (features_out,).

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> x = jnp.ones((1, 8, 8, 3))
        >>> tx.ConvTranspose(4, (3, 3), strides=(2, 2)).init(42, x)(x).shape
        (1, 16, 16, 4)
    """

    linen_class = linen.ConvTranspose
    linen_names = {"features_out": "features"}

    kernel: jax.Array | None = Parameter.node()
    bias: jax.Array | None = Parameter.node()

    def __init__(
        self,
        features_out: int,
        kernel_size: int | Sequence[int],
        *,
        strides: None | int | Sequence[int] = None,
        padding: PaddingLike = "SAME",
        kernel_dilation: None | int | Sequence[int] = None,
        use_bias: bool = True,
        dtype: Dtype = jnp.float32,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = default_kernel_init,
        bias_init: Initializer = zeros,
    ) -> None:
        self.features_out = features_out
        self.kernel_size = as_window(kernel_size)
        self.strides = strides
        self.padding = padding
        self.kernel_dilation = kernel_dilation
        self.use_bias = use_bias
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.kernel_init = kernel_init
        self.bias_init = bias_init
        self.kernel = None
        self.bias = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Spreads `x` of shape (*batch, *spatial, channels).

        Raises:
            NotInitializedError: the layer has no parameters yet.
        """
        if self.initializing():
            self.make_variables(x)
        return self.run(x)
