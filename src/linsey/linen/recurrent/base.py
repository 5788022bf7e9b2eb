"""What recurrent cells share: the interface, and how a carry begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp

from linsey.linen.activation import sigmoid, tanh
from linsey.linen.initializers import orthogonal, zeros
from linsey.linen.linear import Dense, default_kernel_init
from linsey.linen.module import Module, nowrap
from linsey.typing import Array, Dtype, Initializer, PRNGKey

__all__ = ["A", "Carry", "CarryHistory", "Output", "RNNCellBase"]

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


class DenseCell(RNNCellBase):
    """What cells made of dense maps share; those with one state also how it begins."""

    @nowrap
    def _map(self, name: str, x: Array, bias_init: Initializer | None = None) -> Array:
        """Maps inputs (`i...`) or states (`h...`), with a bias that has an initializer.

        Args:
            name: name of the map.
            x: array of shape (*batch, channels).
            bias_init: initializer of the bias, none if there is none.

        Returns:
            An array of shape (*batch, features).
        """
        cell: Any = self
        of_inputs = name.startswith("i")
        return Dense(
            cell.features,
            use_bias=bias_init is not None,
            kernel_init=cell.kernel_init if of_inputs else cell.recurrent_kernel_init,
            bias_init=bias_init or zeros,
            dtype=cell.dtype,
            param_dtype=cell.param_dtype,
            name=name,
        )(x)

    @nowrap
    def initialize_carry(self, rng: PRNGKey, input_shape: tuple[int, ...]) -> Any:
        """Makes the first h for inputs of shape (*batch, channels)."""
        cell: Any = self
        shape = (*input_shape[:-1], cell.features)
        return cell.carry_init(rng, shape, cell.param_dtype)

    @property
    def num_feature_axes(self) -> int:
        """One: the channels."""
        return 1


class GatedCell(DenseCell):
    """The fields of cells with several gates of one kind."""

    features: int
    gate_fn: Callable[..., Any] = sigmoid
    activation_fn: Callable[..., Any] = tanh
    kernel_init: Initializer = default_kernel_init
    recurrent_kernel_init: Initializer = default_recurrent_kernel_init
    bias_init: Initializer = zeros
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = zeros
