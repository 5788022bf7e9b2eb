"""Linear maps and look-up tables."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

import linsey.linen as linen
from linsey.linen import linear as linen_linear
from linsey.linen.initializers import zeros
from linsey.treex.kinds import Parameter
from linsey.treex.nn.linen_layer import LinenLayer
from linsey.typing import Dtype, Initializer, PrecisionLike


def default_kernel_init(key: Any, shape: Any, dtype: Any = jnp.float32) -> Any:
    """The initial kernel of Linen; a function of this module can be pickled."""
    return linen_linear.default_kernel_init(key, shape, dtype)


def default_embed_init(key: Any, shape: Any, dtype: Any = jnp.float32) -> Any:
    """The initial table of Linen."""
    return linen_linear.default_embed_init(key, shape, dtype)


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
        axis_name: a mapped axis along which initial parameters shall differ.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> layer = tx.Linear(4).init(42, jnp.ones((2, 3)))
        >>> layer(jnp.ones((2, 3))).shape, layer.kernel.shape
        ((2, 4), (3, 4))
    """

    linen_class = linen.Dense
    linen_names = {"features_out": "features"}

    kernel: jax.Array | None = Parameter.node()
    bias: jax.Array | None = Parameter.node()

    def __init__(
        self,
        features_out: int,
        *,
        use_bias: bool = True,
        dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = default_kernel_init,
        bias_init: Initializer = zeros,
        name: str | None = None,
        axis_name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.features_out = features_out
        self.use_bias = use_bias
        self.dtype = dtype
        self.precision = precision
        self.kernel_init = kernel_init
        self.bias_init = bias_init
        self.axis_name = axis_name
        self.kernel = None
        self.bias = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x` of shape (..., channels) to shape (..., features_out).

        Raises:
            NotInitializedError: the layer has no parameters yet.
        """
        if self.initializing():
            self.make_variables(x, axis_name=self.axis_name)
        return self.run(x)


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

    embedding: jax.Array | None = Parameter.node()

    def __init__(
        self,
        num_embeddings: int,
        features: int,
        *,
        dtype: Dtype = jnp.float32,
        embedding_init: Initializer = default_embed_init,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.num_embeddings = num_embeddings
        self.features = features
        self.dtype = dtype
        self.embedding_init = embedding_init
        self.embedding = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Vectors of shape (*x.shape, features); out of range they are NaN.

        Raises:
            IntegerInputError: `x` are no integers.
            NotInitializedError: the layer has no table yet.
        """
        if self.initializing():
            self.make_variables(x)
        return self.run(x)


def as_window(size: Any) -> Any:
    """The window of a convolution; a number means one axis."""
    return (size,) if isinstance(size, int) else size
