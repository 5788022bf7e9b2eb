"""Linear maps, convolutions and look-up as functions of scopes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import lecun_normal, variance_scaling, zeros

from linsey import ops, struct
from linsey.core.scope import Scope

__all__ = ["Embedding", "conv", "conv_transpose", "dense", "dense_general", "embedding"]

default_kernel_init = lecun_normal()
default_embed_init = variance_scaling(1.0, "fan_in", "normal", out_axis=0)


def dense(
    scope: Scope,
    inputs: Array,
    features: int,
    bias: bool = True,
    dtype: Any = jnp.float32,
    precision: Any = None,
    kernel_init: Any = default_kernel_init,
    bias_init: Any = zeros,
) -> Array:
    """Maps the last axis linearly: `y = x @ kernel + bias`.

    Args:
        scope: holds `kernel` and `bias`.
        inputs: array of shape (..., channels).
        features: number of output features.
        bias: whether to add a bias.
        dtype: dtype of the computation.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`.
        bias_init: initializer of `bias`.

    Returns:
        An array of shape (..., features).
    """
    kernel = scope.param("kernel", kernel_init, (inputs.shape[-1], features))
    offset = scope.param("bias", bias_init, (features,)) if bias else None
    operands = _cast(dtype, inputs, kernel, offset)
    return ops.dense(*operands, precision=precision)


def dense_general(
    scope: Scope,
    inputs: Array,
    features: int | Sequence[int],
    axis: int | Sequence[int] = -1,
    batch_dims: int | Sequence[int] = (),
    bias: bool = True,
    dtype: Any = jnp.float32,
    kernel_init: Any = default_kernel_init,
    bias_init: Any = zeros,
    precision: Any = None,
) -> Array:
    """Maps chosen axes linearly to one or several feature axes.

    Args:
        scope: holds `kernel` and `bias`.
        inputs: array of any shape.
        features: number of output features, or one for each feature axis.
        axis: the axes that are contracted.
        batch_dims: leading axes; each entry of them has a kernel of its own, all with
            the same initial values.
        bias: whether to add a bias.
        dtype: dtype of the computation.
        kernel_init: initializer of `kernel`, called with a flat shape.
        bias_init: initializer of `bias`, likewise.
        precision: see `jax.lax.Precision`.

    Returns:
        An array of shape (*batch, *remaining axes, *features).
    """
    features, axis, batch_dims = map(_tuple, (features, axis, batch_dims))
    axes = sorted(i % inputs.ndim for i in axis)
    batch = tuple(inputs.shape[i] for i in batch_dims)
    contracted = tuple(inputs.shape[i] for i in axes)

    def declare(name: str, init: Any, *sizes: tuple[int, ...]) -> Array:
        """Draws in a flat shape, once for all batch entries."""
        flat, one_entry = tuple(map(math.prod, sizes)), sum(sizes, ())

        def draw(key: Array, shape: tuple[int, ...]) -> Array:
            drawn = jnp.reshape(init(key, flat, jnp.float32), one_entry)
            return jnp.broadcast_to(drawn, shape)

        return scope.param(name, draw, batch + one_entry)

    kernel = declare("kernel", kernel_init, contracted, features)
    offset = declare("bias", bias_init, features) if bias else None
    operands = _cast(dtype, inputs, kernel, offset)
    return ops.dense_general(
        *operands, axes=axes, batch_axes=batch_dims, precision=precision
    )


def conv(
    scope: Scope,
    inputs: Array,
    features: int,
    kernel_size: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Any = "SAME",
    input_dilation: Sequence[int] | None = None,
    kernel_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    bias: bool = True,
    dtype: Any = jnp.float32,
    precision: Any = None,
    kernel_init: Any = default_kernel_init,
    bias_init: Any = zeros,
) -> Array:
    """Convolves an array of shape (batch, *spatial, channels); see `linen.Conv`."""
    channels = inputs.shape[-1] // feature_group_count
    kernel = scope.param("kernel", kernel_init, (*kernel_size, channels, features))
    offset = scope.param("bias", bias_init, (features,)) if bias else None
    operands = _cast(dtype, inputs, kernel, offset)
    return ops.conv(
        *operands,
        strides=strides,
        padding=padding,
        input_dilation=input_dilation,
        kernel_dilation=kernel_dilation,
        feature_group_count=feature_group_count,
        precision=precision,
    )


def conv_transpose(
    scope: Scope,
    inputs: Array,
    features: int,
    kernel_size: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Any = "SAME",
    kernel_dilation: Sequence[int] | None = None,
    bias: bool = True,
    dtype: Any = jnp.float32,
    precision: Any = None,
    kernel_init: Any = default_kernel_init,
    bias_init: Any = zeros,
) -> Array:
    """Spreads an array of shape (batch, *spatial, channels); see `ConvTranspose`."""
    shape = (*kernel_size, inputs.shape[-1], features)
    kernel = scope.param("kernel", kernel_init, shape)
    offset = scope.param("bias", bias_init, (features,)) if bias else None
    operands = _cast(dtype, inputs, kernel, offset)
    return ops.conv_transpose(
        *operands,
        strides=strides,
        padding=padding,
        kernel_dilation=kernel_dilation,
        precision=precision,
    )


@struct.dataclass
class Embedding:
    """A table of rows.

    Args:
        table: array of shape (rows, features).
    """

    table: Any

    def lookup(self, indices: Array) -> Array:
        """Takes rows.

        Args:
            indices: integers of any shape.

        Returns:
            An array of shape (*indices.shape, features).

        Raises:
            ValueError: the indices are no integers.
        """
        if not jnp.issubdtype(indices.dtype, jnp.integer):
            raise ValueError("Input type must be an integer or unsigned integer.")
        return self.table[indices]

    def attend(self, query: Array) -> Array:
        """Scores queries of shape (..., features) against rows: (..., rows)."""
        return ops.attend(query, jnp.asarray(self.table))


def embedding(
    scope: Scope, num_embeddings: int, features: int, init_fn: Any = default_embed_init
) -> Embedding:
    """Declares a table of rows, `table`, in a scope."""
    return Embedding(scope.param("table", init_fn, (num_embeddings, features)))


def _tuple(value: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _cast(dtype: Any, *values: Any) -> list[Any]:
    return [None if value is None else jnp.asarray(value, dtype) for value in values]
