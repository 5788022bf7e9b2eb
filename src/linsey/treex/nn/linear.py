"""Linear maps and look-up tables."""

from __future__ import annotations

from dataclasses import KW_ONLY

import jax
import jax.numpy as jnp

import linsey.linen as linen
from linsey.linen import linear as linen_linear
from linsey.linen.initializers import zeros
from linsey.treex.nn.flax_module import LinenLayer, layer
from linsey.treex.types import Parameter
from linsey.typing import Dtype, Initializer, PrecisionLike, Shape


def default_kernel_init(
    key: jax.Array, shape: Shape, dtype: Dtype = jnp.float32
) -> jax.Array:
    """Return the initial kernel of Linen; a function of this module can be pickled."""
    return linen_linear.default_kernel_init(key, shape, dtype)


def default_embed_init(
    key: jax.Array, shape: Shape, dtype: Dtype = jnp.float32
) -> jax.Array:
    """Return the initial table of Linen."""
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
    """Looks up vectors by integers.

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
        """Return vectors of shape (*x.shape, features); out of range they are NaN.

        Raises:
            IntegerInputError: `x` has no integer dtype.
            NotInitializedError: the layer has no table yet.
        """
        return self.run(x)
