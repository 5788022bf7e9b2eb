"""Linear maps, convolutions and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY

import jax
import jax.numpy as jnp

import linsey.linen as linen
from linsey.linen import linear as linen_linear
from linsey.linen.initializers import zeros
from linsey.treex.nn.flax_module import LinenLayer, layer
from linsey.treex.types import Parameter
from linsey.typing import Dtype, Initializer, PaddingLike, PrecisionLike, Shape


def default_kernel_init(
    key: jax.Array, shape: Shape, dtype: Dtype = jnp.float32
) -> jax.Array:
    """Return Linen's initial kernel; this function, unlike Linen's, can be pickled."""
    return linen_linear.default_kernel_init(key, shape, dtype)


def default_embed_init(
    key: jax.Array, shape: Shape, dtype: Dtype = jnp.float32
) -> jax.Array:
    """Return Linen's initial embedding table."""
    return linen_linear.default_embed_init(key, shape, dtype)


@layer
class Linear(LinenLayer):
    """Maps the last axis linearly: `y = x @ kernel + bias`.

    Args:
        features_out: number of output features.
        use_bias: whether to add a bias.
        dtype: dtype of the computation; parameters are float32.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`, of shape (channels, features_out).
        bias_init: initializer of `bias`, of shape (features_out,).
        name: name in compact methods.
        axis_name: a mapped axis along which initial parameters differ.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> layer = tx.Linear(4).init(42, jnp.ones((2, 3)))
        >>> layer(jnp.ones((2, 3))).shape, layer.kernel.shape
        ((2, 4), (3, 4))
    """

    linen_class = linen.Dense
    linen_names = {"features_out": "features"}

    features_out: int
    _: KW_ONLY
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros
    name: str | None = None
    axis_name: str | None = None
    kernel: jax.Array | None = Parameter.node(default=None, init=False)
    bias: jax.Array | None = Parameter.node(default=None, init=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `x` of shape (..., channels) to shape (..., features_out).

        Raises:
            NotInitializedError: the layer has no parameters yet.
        """
        return self.run(x, axis_name=self.axis_name)


@layer
class Embed(LinenLayer):
    """Looks up a vector for each integer.

    Args:
        num_embeddings: number of rows of the table.
        features: length of a vector.
        dtype: dtype of the vectors; the table is float32.
        embedding_init: initializer of `embedding`, of shape
            (num_embeddings, features).
        name: name in compact methods.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> tx.Embed(5, 3).init(42, jnp.arange(2))(jnp.arange(4)).shape
        (4, 3)
    """

    linen_class = linen.Embed

    num_embeddings: int
    features: int
    _: KW_ONLY
    dtype: Dtype = jnp.float32
    embedding_init: Initializer = default_embed_init
    name: str | None = None
    embedding: jax.Array | None = Parameter.node(default=None, init=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return vectors of shape (*x.shape, features), NaN for integers out of range.

        Raises:
            IntegerInputError: `x` does not have an integer dtype.
            NotInitializedError: the layer has no table yet.
        """
        return self.run(x)


@layer
class _Convolution(LinenLayer):
    """Base of both convolutions, whose kernels have a size for each spatial axis."""

    linen_names = {"features_out": "features"}

    features_out: int
    kernel_size: int | Sequence[int]
    kernel: jax.Array | None = Parameter.node(default=None, init=False)
    bias: jax.Array | None = Parameter.node(default=None, init=False)

    def __post_init__(self) -> None:
        if isinstance(self.kernel_size, int):
            self.kernel_size = (self.kernel_size,)


@layer
class Conv(_Convolution):
    """Convolves channels-last inputs; see `linsey.linen.Conv`.

    Args:
        features_out: number of output features.
        kernel_size: size of the window along each spatial axis; a number means that
            there is one axis.
        strides: step between windows.
        padding: 'SAME', 'VALID', 'CIRCULAR', 'CAUSAL' (one axis only), or a pair of
            numbers for each axis.
        input_dilation: distance between the entries of the input.
        kernel_dilation: distance between the entries of the window.
        feature_group_count: number of groups into which the channels are divided; each
            is convolved separately.
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

    _: KW_ONLY
    strides: None | int | Sequence[int] = None
    padding: PaddingLike = "SAME"
    input_dilation: None | int | Sequence[int] = None
    kernel_dilation: None | int | Sequence[int] = None
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve `x` of shape (*batch, *spatial, channels).

        Raises:
            NotInitializedError: the layer has no parameters yet.
        """
        return self.run(x)


@layer
class ConvTranspose(_Convolution):
    """A transposed convolution; see `linsey.linen.ConvTranspose`.

    Args:
        features_out: number of output features.
        kernel_size: size of the window along each spatial axis; a number means that
            there is one axis.
        strides: step between windows in the output.
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

    _: KW_ONLY
    strides: None | int | Sequence[int] = None
    padding: PaddingLike = "SAME"
    kernel_dilation: None | int | Sequence[int] = None
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the transposed convolution to `x`: (*batch, *spatial, channels).

        Raises:
            NotInitializedError: the layer has no parameters yet.
        """
        return self.run(x)
