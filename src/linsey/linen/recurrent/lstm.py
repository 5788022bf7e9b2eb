"""Cells with a long short-term memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.linen.activation import sigmoid, tanh
from linsey.linen.dtypes import promote_dtype
from linsey.linen.initializers import zeros
from linsey.linen.linear import Dense, default_kernel_init
from linsey.linen.module import Module, compact, nowrap
from linsey.linen.recurrent.base import (
    RNNCellBase,
    default_recurrent_kernel_init,
    two_states,
)
from linsey.ops.dot import dense
from linsey.typing import Dtype, Initializer, PrecisionLike, PRNGKey


class LSTMCell(RNNCellBase):
    r"""Takes a step of a long short-term memory.

        i = gate(W_ii x + W_hi h + b_i)        f = gate(W_if x + W_hf h + b_f)
        g = activation(W_ig x + W_hg h + b_g)  o = gate(W_io x + W_ho h + b_o)
        c' = f c + i g                         h' = o activation(c')

    The carry is the pair (c, h), the output h'.

    Attributes:
        features: number of features of c and h.
        gate_fn: activation of the gates.
        activation_fn: activation of the candidate and of the output.
        kernel_init: initializer of the kernels of the inputs.
        recurrent_kernel_init: initializer of the kernels of h.
        bias_init: initializer of the biases.
        dtype: dtype of the computation; none means that of inputs and parameters.
        param_dtype: dtype of the parameters and of the first carry.
        carry_init: initializer of the first carry.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((2, 3))
        >>> cell = nn.LSTMCell(features=4)
        >>> carry = cell.initialize_carry(key, x.shape)
        >>> variables = cell.init(key, carry, x)
        >>> (c, h), y = cell.apply(variables, carry, x)
        >>> c.shape, h.shape, bool((h == y).all())
        ((2, 4), (2, 4), True)

    References:
        Hochreiter, Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735
    """

    features: int
    gate_fn: Callable[..., Any] = sigmoid
    activation_fn: Callable[..., Any] = tanh
    kernel_init: Initializer = default_kernel_init
    recurrent_kernel_init: Initializer = default_recurrent_kernel_init
    bias_init: Initializer = zeros
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = zeros

    @compact
    def __call__(
        self, carry: tuple[Array, Array], inputs: Array
    ) -> tuple[tuple[Array, Array], Array]:
        """Takes a step.

        Args:
            carry: c and h, each of shape (*batch, features).
            inputs: x of shape (*batch, channels).

        Returns:
            The new carry, and the output of shape (*batch, features).
        """
        c, h = carry
        i = self.gate_fn(self._sum("i", inputs, h))
        f = self.gate_fn(self._sum("f", inputs, h))
        g = self.activation_fn(self._sum("g", inputs, h))
        o = self.gate_fn(self._sum("o", inputs, h))
        new_c = f * c + i * g
        new_h = o * self.activation_fn(new_c)
        return (new_c, new_h), new_h

    @nowrap
    def _sum(self, gate: str, x: Array, h: Array) -> Array:
        """What a gate sees: `W_i x + W_h h + b`."""
        from_x = Dense(
            self.features,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="i" + gate,
        )(x)
        from_h = Dense(
            self.features,
            kernel_init=self.recurrent_kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="h" + gate,
        )(h)
        return from_x + from_h

    @nowrap
    def initialize_carry(
        self, rng: PRNGKey, input_shape: tuple[int, ...]
    ) -> tuple[Array, Array]:
        """Makes the first c and h for inputs of shape (*batch, channels)."""
        shape = (*input_shape[:-1], self.features)
        return two_states(self.carry_init, rng, shape, self.param_dtype)

    @property
    def num_feature_axes(self) -> int:
        """One: the channels."""
        return 1


class DenseParams(Module):
    """Holds the parameters of a `Dense` layer without applying them.

    Attributes:
        features: number of output features.
        use_bias: whether there is a bias.
        param_dtype: dtype of the parameters.
        precision: accepted as by `Dense`.
        kernel_init: initializer of the kernel.
        bias_init: initializer of the bias.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = DenseParams(4).init(jax.random.key(0), jnp.ones((1, 3)))["params"]
        >>> params["kernel"].shape, params["bias"].shape
        ((3, 4), (4,))
    """

    features: int
    use_bias: bool = True
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros

    @compact
    def __call__(self, inputs: Array) -> tuple[Array, Array | None]:
        """Gives kernel and bias for inputs of shape (..., channels)."""
        shape = (np.shape(inputs)[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param(
            "bias", self.bias_init, (self.features,), self.param_dtype
        )


class OptimizedLSTMCell(RNNCellBase):
    """Takes a step of a long short-term memory with two matrix products.

    The same as `LSTMCell`, parameters included; the kernels of the four gates are
    joined before they are applied. Faster on wide accelerators.

    Attributes:
        features: number of features of c and h.
        gate_fn: activation of the gates.
        activation_fn: activation of the candidate and of the output.
        kernel_init: initializer of the kernels of the inputs.
        recurrent_kernel_init: initializer of the kernels of h.
        bias_init: initializer of the biases.
        dtype: dtype of the computation; none means that of inputs and parameters.
        param_dtype: dtype of the parameters and of the first carry.
        carry_init: initializer of the first carry.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((2, 3))
        >>> cell, plain = nn.OptimizedLSTMCell(features=4), nn.LSTMCell(features=4)
        >>> carry = cell.initialize_carry(key, x.shape)
        >>> variables = cell.init(key, carry, x)
        >>> _, y = cell.apply(variables, carry, x)
        >>> _, expected = plain.apply(variables, carry, x)
        >>> bool(jnp.allclose(y, expected))
        True
    """

    features: int
    gate_fn: Callable[..., Any] = sigmoid
    activation_fn: Callable[..., Any] = tanh
    kernel_init: Initializer = default_kernel_init
    recurrent_kernel_init: Initializer = default_recurrent_kernel_init
    bias_init: Initializer = zeros
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = zeros

    @compact
    def __call__(
        self, carry: tuple[Array, Array], inputs: Array
    ) -> tuple[tuple[Array, Array], Array]:
        """Takes a step.

        Args:
            carry: c and h, each of shape (*batch, features).
            inputs: x of shape (*batch, channels).

        Returns:
            The new carry, and the output of shape (*batch, features).
        """
        c, h = carry
        from_x, from_h = [], []
        for gate in "ifgo":
            from_x.append(self._params("i" + gate, inputs, self.kernel_init, False))
            from_h.append(self._params("h" + gate, h, self.recurrent_kernel_init, True))
        gates = self._sums(inputs, from_x) + self._sums(h, from_h)
        i, f, g, o = lax.split(gates, (self.features,) * 4, axis=gates.ndim - 1)
        new_c = self.gate_fn(f) * c + self.gate_fn(i) * self.activation_fn(g)
        new_h = self.gate_fn(o) * self.activation_fn(new_c)
        return (new_c, new_h), new_h

    @nowrap
    def _params(
        self, name: str, inputs: Array, kernel_init: Initializer, use_bias: bool
    ) -> tuple[Array, Array | None]:
        return DenseParams(
            self.features,
            use_bias=use_bias,
            param_dtype=self.param_dtype,
            kernel_init=kernel_init,
            bias_init=self.bias_init,
            name=name,
        )(inputs)

    @nowrap
    def _sums(self, x: Array, params: list[tuple[Array, Array | None]]) -> Array:
        """Applies the joined kernels: (*batch, 4 * features)."""
        kernel = lax.concatenate([kernel for kernel, _ in params], 1)
        biases = [bias for _, bias in params if bias is not None]
        bias = lax.concatenate(biases, 0) if biases else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return dense(x, kernel, bias)

    @nowrap
    def initialize_carry(
        self, rng: PRNGKey, input_shape: tuple[int, ...]
    ) -> tuple[Array, Array]:
        """Makes the first c and h for inputs of shape (*batch, channels)."""
        shape = (*input_shape[:-1], self.features)
        return two_states(self.carry_init, rng, shape, self.param_dtype)

    @property
    def num_feature_axes(self) -> int:
        """One: the channels."""
        return 1
