"""A cell with a long short-term memory whose maps are convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from linsey.linen.activation import sigmoid, tanh
from linsey.linen.initializers import Initializer, zeros
from linsey.linen.linear import Conv
from linsey.linen.module import compact, nowrap
from linsey.linen.recurrent.base import RNNCellBase, two_states
from linsey.typing import Dtype, PRNGKey


class ConvLSTMCell(RNNCellBase):
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
        new_c = sigmoid(f + 1) * c + sigmoid(i) * tanh(g)
        new_h = sigmoid(o) * tanh(new_c)
        return (new_c, new_h), new_h

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

    @nowrap
    def initialize_carry(
        self, rng: PRNGKey, input_shape: tuple[int, ...]
    ) -> tuple[Array, Array]:
        """Makes the first c and h for inputs (*batch, *spatial, channels)."""
        shape = (*input_shape[:-1], self.features)
        return two_states(self.carry_init, rng, shape, self.param_dtype)

    @property
    def num_feature_axes(self) -> int:
        """The spatial axes and the channels."""
        return len(self.kernel_size) + 1
