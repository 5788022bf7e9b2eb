"""Cells with a long short-term memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.linen.activation import sigmoid, tanh
from linsey.linen.dtypes import promote_dtype
from linsey.linen.initializers import zeros
from linsey.linen.linear import Conv
from linsey.linen.linear.dense import default_kernel_init, kernel_and_bias
from linsey.linen.module import Module, compact, nowrap
from linsey.linen.recurrent.base import GatedCell, RNNCellBase
from linsey.ops.dot import dense
from linsey.typing import Dtype, Initializer, PrecisionLike, PRNGKey

__all__ = ["ConvLSTMCell", "LSTMCell", "OptimizedLSTMCell"]


class _MemoryCell(RNNCellBase):
    """What cells with a memory c beside their output h share: how both begin."""

    @nowrap
    def initialize_carry(
        self, rng: PRNGKey, input_shape: tuple[int, ...]
    ) -> tuple[Array, Array]:
        """Makes the first c and h for inputs of shape (*batch, *spatial, channels)."""
        cell: Any = self
        shape, dtype = (*input_shape[:-1], cell.features), cell.param_dtype
        c_key, h_key = jax.random.split(rng)
        c = cell.carry_init(c_key, shape, dtype)
        return c, cell.carry_init(h_key, shape, dtype)


def _remember(
    c: Array,
    gates: Iterable[Array],
    gate_fn: Callable[..., Any],
    activation_fn: Callable[..., Any],
) -> tuple[tuple[Array, Array], Array]:
    """Takes a step from the memory and what the four gates see."""
    i, f, g, o = gates
    new_c = gate_fn(f) * c + gate_fn(i) * activation_fn(g)
    new_h = gate_fn(o) * activation_fn(new_c)
    return (new_c, new_h), new_h


class _DenseMemoryCell(_MemoryCell, GatedCell):
    """Takes a step with dense maps, two for each gate."""

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
        gates = self._gates(inputs, h)
        return _remember(c, gates, self.gate_fn, self.activation_fn)

    @nowrap
    def _gates(self, x: Array, h: Array) -> Sequence[Array]:
        """What the gates i, f, g and o see: `W_i x + W_h h + b`."""
        bias = self.bias_init
        return [self._map("i" + g, x) + self._map("h" + g, h, bias) for g in "ifgo"]


class LSTMCell(_DenseMemoryCell):
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
        return kernel_and_bias(self, shape, (self.features,))


class OptimizedLSTMCell(_DenseMemoryCell):
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

    @nowrap
    def _gates(self, x: Array, h: Array) -> Sequence[Array]:
        """Splits the sum of two joined maps."""
        pairs = [(self._params("i", x, g), self._params("h", h, g)) for g in "ifgo"]
        of_x, of_h = zip(*pairs, strict=True)
        gates = self._sums(x, of_x) + self._sums(h, of_h)
        return lax.split(gates, (self.features,) * 4, axis=gates.ndim - 1)

    @nowrap
    def _params(self, side: str, inputs: Array, gate: str) -> Any:
        of_h = side == "h"
        return DenseParams(
            self.features,
            use_bias=of_h,
            param_dtype=self.param_dtype,
            kernel_init=self.recurrent_kernel_init if of_h else self.kernel_init,
            bias_init=self.bias_init,
            name=side + gate,
        )(inputs)

    @nowrap
    def _sums(self, x: Array, params: Iterable[tuple[Array, Array | None]]) -> Array:
        """Applies the joined kernels: (*batch, 4 * features)."""
        kernels, biases = zip(*params, strict=True)
        kernel = lax.concatenate(kernels, 1)
        bias = None if biases[0] is None else lax.concatenate(biases, 0)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return dense(x, kernel, bias)


class ConvLSTMCell(_MemoryCell):
    """Takes a step of a convolutional long short-term memory.

        i, g, f, o = split(W_i * x + W_h * h + b)
        c' = sigmoid(f + 1) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    `*` is the convolution. The carry is the pair (c, h), the output h'.

    Attributes:
        features: number of features of c and h.
        kernel_size: size of the kernels, one for each spatial axis.
        strides: strides of the convolution of the inputs and of h; one means 1.
        padding: see `Conv`.
        use_bias: whether to add biases.
        dtype: dtype of the computation; none means that of inputs and parameters.
        param_dtype: dtype of the parameters and of the first carry.
        carry_init: initializer of the first carry.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((1, 5, 5, 3))
        >>> cell = nn.ConvLSTMCell(features=4, kernel_size=(3, 3))
        >>> carry = cell.initialize_carry(key, x.shape)
        >>> ((c, h), y), variables = cell.init_with_output(key, carry, x)
        >>> y.shape, variables["params"]["ih"]["kernel"].shape
        ((1, 5, 5, 4), (3, 3, 3, 16))

    References:
        Shi et al. 2015, https://arxiv.org/abs/1506.04214
    """

    features: int
    kernel_size: Sequence[int]
    strides: Sequence[int] | None = None
    padding: str | Sequence[tuple[int, int]] = "SAME"
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = zeros

    @compact
    def __call__(
        self, carry: tuple[Array, Array], inputs: Array
    ) -> tuple[tuple[Array, Array], Array]:
        """Takes a step.

        Args:
            carry: c and h, each of shape (*batch, *spatial, features).
            inputs: x of shape (*batch, *spatial, channels).

        Returns:
            The new carry, and the output of shape (*batch, *spatial, features).
        """
        c, h = carry
        gates = self._convolve("ih", inputs) + self._convolve("hh", h)
        i, g, f, o = lax.split(gates, (self.features,) * 4, axis=gates.ndim - 1)
        return _remember(c, (i, f + 1, g, o), sigmoid, tanh)

    @nowrap
    def _convolve(self, name: str, x: Array) -> Array:
        return Conv(
            features=4 * self.features,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )(x)

    @property
    def num_feature_axes(self) -> int:
        """The spatial axes and the channels."""
        return len(self.kernel_size) + 1
