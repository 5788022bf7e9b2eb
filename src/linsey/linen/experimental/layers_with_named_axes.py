"""Layers whose parameters have named axes, in the collection `params_axes`.

See `linsey.linen.partitioning` for the names and for their mapping to a mesh.
"""

# ruff: noqa: F403, F405 (programs also look here for the types of `linsey.typing`)

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from linsey.errors.layers import InputRankError, IntegerInputError
from linsey.linen.dtypes import promote_dtype
from linsey.linen.initializers import zeros
from linsey.linen.linear import default_embed_init, default_kernel_init
from linsey.linen.linear.dense import choose_dot_general
from linsey.linen.module import Module, compact
from linsey.linen.normalization.example import ScaleAndBias
from linsey.linen.partitioning import param_with_axes, with_sharding_constraint
from linsey.ops.dot import dense
from linsey.ops.examples import standardize_examples_jit
from linsey.ops.moments import NormSpec
from linsey.typing import *

Activation = Callable[..., Array]


class Dense(Module):
    """Map the last axis linearly: `y = x @ kernel + bias`.

    Attributes:
        features: number of output features.
        use_bias: whether to add a bias.
        dtype: dtype of the computation.
        param_dtype: dtype of the parameters.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`, of shape (channels, features).
        bias_init: initializer of `bias`, of shape (features,).
        kernel_axes: names of the axes of `kernel`; the bias has the last of them.
        dot_general: computes the product in place of `jax.lax.dot_general`.
        dot_general_cls: builds such a function.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = Dense(4, kernel_axes=("embed", "mlp"))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> {name: box.names for name, box in variables["params_axes"].items()}
        {'kernel_axes': ('embed', 'mlp'), 'bias_axes': ('mlp',)}
    """

    features: int
    use_bias: bool = True
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros
    kernel_axes: tuple[str, ...] = ()
    dot_general: DotGeneralT | None = None
    dot_general_cls: Callable[[], DotGeneralT] | None = None

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Map `inputs` of shape (..., channels) to shape (..., features)."""
        shape = np.shape(inputs)
        if not shape:
            raise InputRankError("Dense", shape, "channels")
        shape, axes = (shape[-1], self.features), self.kernel_axes or None
        dtype = self.param_dtype
        kernel = param_with_axes("kernel", self.kernel_init, shape, dtype, axes=axes)
        bias = None
        if self.use_bias:
            shape, axes = shape[1:], axes and axes[-1:]
            bias = param_with_axes("bias", self.bias_init, shape, dtype, axes=axes)
        x, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        dot_general = choose_dot_general(self.dot_general, self.dot_general_cls)
        return dense(x, kernel, bias, precision=self.precision, dot_general=dot_general)


class Embed(Module):
    """Look up rows of a table, `y = embedding[x]`, with axes `vocab` and `embed`.

    Attributes:
        num_embeddings: number of rows.
        features: number of features of a row.
        cast_input_dtype: integer dtype to convert inputs to, if any.
        dtype: dtype of the rows that are returned.
        param_dtype: dtype of the table.
        attend_dtype: dtype of the table in `attend`. Defaults to `dtype`.
        embedding_init: initializer of `embedding`, (num_embeddings, features).
        one_hot: whether to look up by a product with one-hot rows.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = Embed(num_embeddings=5, features=4)
        >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.array([1, 2]))
        >>> y.shape, variables["params_axes"]["embedding_axes"].names
        ((2, 4), ('vocab', 'embed'))
    """

    num_embeddings: int
    features: int
    cast_input_dtype: Dtype | None = None
    dtype: Dtype = jnp.float32
    param_dtype: Dtype = jnp.float32
    attend_dtype: Dtype | None = None
    embedding_init: Initializer = default_embed_init
    one_hot: bool = False

    def setup(self) -> None:
        """Declare the table."""
        init, shape = self.embedding_init, (self.num_embeddings, self.features)
        options, axes = (init, shape, self.param_dtype), ("vocab", "embed")
        self.embedding = param_with_axes("embedding", *options, axes=axes)

    def __call__(self, inputs: Array) -> Array:
        """Look up rows by their indices.

        Args:
            inputs: integers in [0, num_embeddings), of any shape.

        Returns:
            Rows, of shape (*inputs.shape, features).

        Raises:
            IntegerInputError: the inputs are not integers.
        """
        inputs = jnp.asarray(inputs)
        if self.cast_input_dtype:
            inputs = inputs.astype(self.cast_input_dtype)
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise IntegerInputError(self.num_embeddings, inputs.dtype)
        embedding = jnp.asarray(self.embedding, self.dtype)
        if self.one_hot:
            rows = lax.iota(inputs.dtype, self.num_embeddings)
            chosen = lax.expand_dims(inputs, (inputs.ndim,)) == rows
            return dense(chosen.astype(self.dtype), embedding)
        y = embedding[inputs]
        if y.ndim == 3:
            y = with_sharding_constraint(y, ("batch", "length", "embed"))
        return y

    def attend(self, query: Array) -> Array:
        """Score queries of shape (..., features) against all rows: (..., rows)."""
        dtype = self.dtype if self.attend_dtype is None else self.attend_dtype
        return jnp.dot(query, jnp.asarray(self.embedding, dtype).T)


class LayerNorm(ScaleAndBias):
    """Normalize each example; the axis of scale and bias is `embed`.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    Attributes:
        epsilon: small number added to the variance.
        dtype: dtype of the result.
        param_dtype: dtype of the parameters.
        use_bias: whether to add a bias.
        use_scale: whether to multiply by a scale.
        bias_init: initializer of `bias`.
        scale_init: initializer of `scale`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[1.0, 3.0], [10.0, 30.0]])
        >>> y, variables = LayerNorm().init_with_output(jax.random.key(0), x)
        >>> print(y.round(3))
        [[-1.  1.]
         [-1.  1.]]
        >>> variables["params_axes"]["scale_axes"].names
        ('embed',)
    """

    dtype: Dtype | None = jnp.float32

    @compact
    def __call__(self, x: Array) -> Array:
        """Normalize inputs of shape (..., features)."""
        x = jnp.asarray(x)
        shape, last, scale, bias = x.shape[-1:], (x.ndim - 1,), None, None
        options, axes = (shape, self.param_dtype), ("embed",)
        if self.use_scale:
            scale = param_with_axes("scale", self.scale_init, *options, axes=axes)
        if self.use_bias:
            bias = param_with_axes("bias", self.bias_init, *options, axes=axes)
        spec = NormSpec(last, last, self.dtype)
        return standardize_examples_jit(spec, x, None, scale, bias, self.epsilon)
