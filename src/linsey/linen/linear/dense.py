"""Dense layers: a linear map of the last axis, or of chosen axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.core import meta
from linsey.errors import layers as errors
from linsey.linen.dtypes import PromoteDtypeFn, promote_dtype
from linsey.linen.initializers import lecun_normal, zeros
from linsey.linen.module import Module, compact, nowrap
from linsey.ops.deferred import Deferred
from linsey.ops.dot import dense, dense_general
from linsey.typing import DotGeneralT, Dtype, Initializer, PrecisionLike, Shape

__all__ = ["Dense", "DenseGeneral"]

default_kernel_init: Initializer = lecun_normal()


class Dense(Module):
    """Maps the last axis linearly: `y = x @ kernel + bias`.

    Attributes:
        features: number of output features.
        use_bias: whether to add a bias.
        dtype: dtype of the computation; none means that of inputs and parameters.
        param_dtype: dtype of the parameters.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`, of shape (channels, features).
        bias_init: initializer of `bias`, of shape (features,).
        promote_dtype: brings `(inputs, kernel, bias)` to one dtype.
        dot_general: computes the product in place of `jax.lax.dot_general`.
        dot_general_cls: builds such a function, for example a module with state.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> variables = nn.Dense(4).init(jax.random.key(0), jnp.ones((1, 3)))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (4,), 'kernel': (3, 4)}}
    """

    features: int
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros
    promote_dtype: PromoteDtypeFn = promote_dtype
    dot_general: DotGeneralT | None = None
    dot_general_cls: Any = None

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Maps `inputs` of shape (..., channels) to shape (..., features).

        Raises:
            InputRankError: `inputs` is a scalar.
        """
        shape = np.shape(inputs)
        if not shape:
            raise errors.InputRankError("Dense", shape, "channels")
        features = self.features
        kernel, bias = kernel_and_bias(self, (shape[-1], features), (features,))
        dot_general = choose_dot_general(self.dot_general, self.dot_general_cls)
        if isinstance(inputs, Deferred) and self.dot_general_cls is None:
            consumer = partial(self._map, dot_general=dot_general)
            return inputs.feed(consumer, kernel, bias)
        return self._map(inputs, kernel, bias, dot_general)

    @nowrap
    def _map(
        self, inputs: Array, kernel: Array, bias: Array | None, dot_general: Any
    ) -> Array:
        x, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return dense(x, kernel, bias, precision=self.precision, dot_general=dot_general)


class DenseGeneral(Module):
    """Maps chosen axes linearly to one or several feature axes.

    Attributes:
        features: number of output features, or one for each feature axis.
        axis: the axes that are contracted; negative ones count from the end.
        batch_dims: leading axes; each entry of them has a kernel of its own.
        use_bias: whether to add a bias.
        dtype: dtype of the computation; none means that of inputs and parameters.
        param_dtype: dtype of the parameters.
        kernel_init: initializer of `kernel`. It is called with the shape
            (batch * contracted, features) and the result is reshaped, so that the
            fan-in is right, to (*batch, *contracted, *features).
        bias_init: initializer of `bias`, of shape (*batch, *features), flat as well.
        precision: see `jax.lax.Precision`.
        promote_dtype: brings `(inputs, kernel, bias)` to one dtype.
        dot_general: computes the product in place of `jax.lax.dot_general`.
        dot_general_cls: builds such a function, for example a module with state.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.DenseGeneral(features=(4, 5), axis=(1, -1))
        >>> y, variables = layer.init_with_output(
        ...     jax.random.key(0), jnp.ones((1, 3, 6, 7))
        ... )
        >>> y.shape, variables["params"]["kernel"].shape
        ((1, 6, 4, 5), (3, 7, 4, 5))
    """

    features: int | Sequence[int]
    axis: int | Sequence[int] = -1
    batch_dims: Sequence[int] = ()
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros
    precision: PrecisionLike = None
    promote_dtype: PromoteDtypeFn = promote_dtype
    dot_general: DotGeneralT | None = None
    dot_general_cls: Any = None

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Maps `inputs` of any rank to shape (*batch, *remaining axes, *features).

        Raises:
            BatchDimsError: `batch_dims` are not the leading axes.
            AxisOutOfRangeError: `inputs` has no such axis.
        """
        shape = np.shape(inputs)
        batch_axes = tuple(sorted(self.batch_dims))
        if batch_axes != tuple(range(len(batch_axes))):
            raise errors.BatchDimsError(self.batch_dims)
        axes = sorted(_axis(axis, shape) for axis in as_tuple(self.axis))
        batch = tuple(shape[axis] for axis in batch_axes)
        contracted = tuple(shape[axis] for axis in axes)
        features = as_tuple(self.features)
        kernel = self._param("kernel", self.kernel_init, batch + contracted, features)
        bias = None
        if self.use_bias:
            bias = self._param("bias", self.bias_init, batch + features)
        x, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return dense_general(
            x,
            kernel,
            bias,
            axes=axes,
            batch_axes=batch_axes,
            precision=self.precision,
            dot_general=choose_dot_general(self.dot_general, self.dot_general_cls),
        )

    @nowrap
    def _param(self, name: str, init: Initializer, *sides: tuple[int, ...]) -> Array:
        """Initializes with each side flat, which fan-in initializers understand."""
        flat, shape = tuple(map(math.prod, sides)), sum(sides, ())

        def init_and_reshape(key: Array, shape: Shape, dtype: Dtype) -> Any:
            value = init(key, flat, dtype)
            reshaped = jnp.reshape(meta.unbox(value), shape)
            return meta.replace_boxed(value, reshaped)

        return self.param(name, init_and_reshape, shape, self.param_dtype)


def kernel_and_bias(
    layer: Any, kernel_shape: Shape, bias_shape: Shape
) -> tuple[Array, Array | None]:
    """Returns the parameters of a linear layer; no bias where it uses none."""
    dtype = layer.param_dtype
    kernel = layer.param("kernel", layer.kernel_init, kernel_shape, dtype)
    if not layer.use_bias:
        return kernel, None
    return kernel, layer.param("bias", layer.bias_init, bias_shape, dtype)


def choose_dot_general(
    dot_general: DotGeneralT | None, dot_general_cls: Any
) -> DotGeneralT:
    """Returns what a layer multiplies with: built by the class, given, or lax's."""
    if dot_general_cls is not None:
        return dot_general_cls()
    return lax.dot_general if dot_general is None else dot_general


def as_tuple(value: int | Sequence[int]) -> tuple[int, ...]:
    """Lists one number or several."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _axis(axis: int, shape: Sequence[int]) -> int:
    rank = len(shape)
    if not -rank <= axis < rank:
        raise errors.AxisOutOfRangeError("DenseGeneral", axis, shape)
    return axis % rank
