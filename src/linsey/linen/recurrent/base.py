"""What recurrent cells share: the interface, and how a carry begins."""

from __future__ import annotations

from typing import Any, TypeVar

import jax

from linsey.linen.initializers import orthogonal
from linsey.linen.module import Module, nowrap
from linsey.typing import Array, Dtype, Initializer, PRNGKey

A = TypeVar("A")
Carry = Any
CarryHistory = Any
Output = Any

default_recurrent_kernel_init: Initializer = orthogonal()


class RNNCellBase(Module):
    """Base of recurrent cells, which take one step in time.

    A cell has a method `__call__(carry, inputs) -> (carry, outputs)`, and

    - `initialize_carry(rng, input_shape)`, which makes the first carry for inputs of
      that shape (without time),
    - `num_feature_axes`, the number of axes of the inputs after batch and time.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> class Sum(nn.RNNCellBase):
        ...     def __call__(self, carry, inputs):
        ...         return carry + inputs, carry + inputs
        ...
        ...     def initialize_carry(self, rng, input_shape):
        ...         return jnp.zeros(input_shape)
        ...
        ...     num_feature_axes = 1
        >>> nn.RNN(Sum()).apply({}, jnp.arange(4.0).reshape(1, 4, 1)).ravel().tolist()
        [0.0, 1.0, 3.0, 6.0]
    """

    @nowrap
    def initialize_carry(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> Carry:
        """Makes the first carry.

        Args:
            rng: random key.
            input_shape: shape of the inputs of one step, (*batch, *features).

        Returns:
            The carry.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say how a carry begins: define "
            "`initialize_carry(self, rng, input_shape)`."
        )

    @property
    def num_feature_axes(self) -> int:
        """Number of axes of the inputs after batch and time."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say how many axes its inputs have after "
            "batch and time: define `num_feature_axes`."
        )


def one_state(
    init: Initializer, rng: PRNGKey, shape: tuple[int, ...], dtype: Dtype
) -> Array:
    """Makes a carry of one array."""
    return init(rng, shape, dtype)


def two_states(
    init: Initializer, rng: PRNGKey, shape: tuple[int, ...], dtype: Dtype
) -> tuple[Array, Array]:
    """Makes a carry of two arrays, each with a key of its own."""
    first, second = jax.random.split(rng)
    return init(first, shape, dtype), init(second, shape, dtype)
