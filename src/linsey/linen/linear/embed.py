"""The embedding layer: a table of vectors, one for each integer."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from linsey.errors.layers import IntegerInputError
from linsey.linen.dtypes import PromoteDtypeFn, promote_dtype
from linsey.linen.initializers import variance_scaling
from linsey.linen.module import Module
from linsey.ops.dot import attend, lookup
from linsey.typing import Dtype, Initializer

default_embed_init: Initializer = variance_scaling(1.0, "fan_in", "normal", out_axis=0)


class Embed(Module):
    """Looks up a vector for each integer: `y[...] = embedding[x[...]]`.

    A negative integer counts from the end of the table; one out of range gives NaN. A
    table of a single row is given out whatever the integers are.

    Attributes:
        num_embeddings: number of rows of the table.
        features: length of a vector.
        dtype: dtype of the vectors; none means that of the table.
        param_dtype: dtype of the table.
        embedding_init: initializer of `embedding`, of shape
            (num_embeddings, features).
        promote_dtype: brings the table, or `(query, embedding)`, to one dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.Embed(num_embeddings=5, features=3)
        >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.arange(2))
        >>> y.shape, variables["params"]["embedding"].shape
        ((2, 3), (5, 3))
        >>> layer.apply(variables, y, method="attend").shape
        (2, 5)
    """

    num_embeddings: int
    features: int
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    embedding_init: Initializer = default_embed_init
    promote_dtype: PromoteDtypeFn = promote_dtype

    def setup(self) -> None:
        """Creates the table."""
        self.embedding = self.param(
            "embedding",
            self.embedding_init,
            (self.num_embeddings, self.features),
            self.param_dtype,
        )

    def __call__(self, inputs: Array) -> Array:
        """Looks up `inputs`, integers of any shape.

        Returns:
            Vectors, of shape (*inputs.shape, features).

        Raises:
            IntegerInputError: `inputs` are no integers.
        """
        dtype = getattr(inputs, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
            found = type(inputs).__name__ if dtype is None else dtype
            raise IntegerInputError(self.num_embeddings, found)
        # The table rather than the result: Flax rounds there, and so do gradients.
        (table,) = self.promote_dtype(self.embedding, dtype=self.dtype, inexact=False)
        if self.num_embeddings == 1:
            row = lax.reshape(table, (self.features,))
            return lax.broadcast(row, inputs.shape)
        return lookup(table, jnp.asarray(inputs))

    def attend(self, query: Array) -> Array:
        """Scores `query`, of shape (..., features), against every row of the table.

        Often used to turn vectors into logits with the table that made them.

        Returns:
            Inner products, of shape (..., num_embeddings).
        """
        query, table = self.promote_dtype(query, self.embedding, dtype=self.dtype)
        return attend(query, table)
