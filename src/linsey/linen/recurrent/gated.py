"""Cells with one state: without gates, with two, and with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from linsey.linen.activation import sigmoid, tanh
from linsey.linen.initializers import ones, zeros
from linsey.linen.linear import default_kernel_init
from linsey.linen.module import compact
from linsey.linen.recurrent.base import (
    DenseCell,
    GatedCell,
    default_recurrent_kernel_init,
)
from linsey.typing import Dtype, Initializer

__all__ = ["GRUCell", "MGUCell", "SimpleCell"]


class SimpleCell(DenseCell):
    """Takes a step of a simple recurrent network.

        h' = activation(W_i x + b + W_h h)

    The carry is h, the output h'; with `residual`, h is added before the activation.

    Attributes:
        features: number of features of h.
        activation_fn: the activation.
        kernel_init: initializer of the kernel of the inputs.
        recurrent_kernel_init: initializer of the kernel of h.
        bias_init: initializer of the bias.
        dtype: dtype of the computation; none means that of inputs and parameters.
        param_dtype: dtype of the parameters and of the first carry.
        carry_init: initializer of the first carry.
        residual: whether to add h before the activation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((2, 3))
        >>> cell = nn.SimpleCell(features=4)
        >>> h = cell.initialize_carry(key, x.shape)
        >>> (h, y), variables = cell.init_with_output(key, h, x)
        >>> jax.tree.map(jnp.shape, variables["params"])
        {'h': {'kernel': (4, 4)}, 'i': {'bias': (4,), 'kernel': (3, 4)}}

    References:
        Elman 1990, https://doi.org/10.1207/s15516709cog1402_1
    """

    features: int
    activation_fn: Callable[..., Any] = tanh
    kernel_init: Initializer = default_kernel_init
    recurrent_kernel_init: Initializer = default_recurrent_kernel_init
    bias_init: Initializer = zeros
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = zeros
    residual: bool = False

    @compact
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """Takes a step.

        Args:
            carry: h of shape (*batch, features).
            inputs: x of shape (*batch, channels).

        Returns:
            The new h, twice.
        """
        h = carry
        new_h = self._map("i", inputs, self.bias_init) + self._map("h", h)
        if self.residual:
            new_h = new_h + h
        new_h = self.activation_fn(new_h)
        return new_h, new_h


class GRUCell(GatedCell):
    """Takes a step of a gated recurrent unit.

        r = gate(W_ir x + b_r + W_hr h)    z = gate(W_iz x + b_z + W_hz h)
        n = activation(W_in x + b_in + r (W_hn h + b_hn))
        h' = (1 - z) n + z h

    The carry is h, the output h'.

    Attributes:
        features: number of features of h.
        gate_fn: activation of the gates.
        activation_fn: activation of the candidate.
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
        >>> cell = nn.GRUCell(features=4)
        >>> h = cell.initialize_carry(key, x.shape)
        >>> (h, y), variables = cell.init_with_output(key, h, x)
        >>> y.shape, sorted(variables["params"])
        ((2, 4), ['hn', 'hr', 'hz', 'in', 'ir', 'iz'])

    References:
        Cho et al. 2014, https://arxiv.org/abs/1406.1078
    """

    @compact
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """Takes a step.

        Args:
            carry: h of shape (*batch, features).
            inputs: x of shape (*batch, channels).

        Returns:
            The new h, twice.
        """
        x, h, bias_init = inputs, carry, self.bias_init
        r = self.gate_fn(self._map("ir", x, bias_init) + self._map("hr", h))
        z = self.gate_fn(self._map("iz", x, bias_init) + self._map("hz", h))
        from_x = self._map("in", x, bias_init)
        n = self.activation_fn(from_x + r * self._map("hn", h, bias_init))
        new_h = (1.0 - z) * n + z * h
        return new_h, new_h


class MGUCell(DenseCell):
    """Takes a step of a minimal gated unit: a gated recurrent unit with one gate.

        f = gate(W_if x + b_if + W_hf h)
        n = activation(W_in x + b_in + f (W_hn h + b_hn))
        h' = (1 - f) n + f h

    Without `reset_gate`, `n = activation(W_in x + b_in + W_hn h)`. The carry is h, the
    output h'.

    Attributes:
        features: number of features of h.
        gate_fn: activation of the gate.
        activation_fn: activation of the candidate.
        kernel_init: initializer of the kernels of the inputs.
        recurrent_kernel_init: initializer of the kernels of h.
        forget_bias_init: initializer of the bias of the gate.
        activation_bias_init: initializer of the biases of the candidate.
        dtype: dtype of the computation; none means that of inputs and parameters.
        param_dtype: dtype of the parameters and of the first carry.
        carry_init: initializer of the first carry.
        reset_gate: whether the gate weighs the state in the candidate.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> key, x = jax.random.key(0), jnp.ones((2, 3))
        >>> cell = nn.MGUCell(features=4)
        >>> h = cell.initialize_carry(key, x.shape)
        >>> (h, y), variables = cell.init_with_output(key, h, x)
        >>> y.shape, sorted(variables["params"])
        ((2, 4), ['hf', 'hn', 'if', 'in'])

    References:
        Zhou et al. 2016, https://arxiv.org/abs/1603.09420
    """

    features: int
    gate_fn: Callable[..., Any] = sigmoid
    activation_fn: Callable[..., Any] = tanh
    kernel_init: Initializer = default_kernel_init
    recurrent_kernel_init: Initializer = default_recurrent_kernel_init
    forget_bias_init: Initializer = ones
    activation_bias_init: Initializer = zeros
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    carry_init: Initializer = zeros
    reset_gate: bool = True

    @compact
    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """Takes a step.

        Args:
            carry: h of shape (*batch, features).
            inputs: x of shape (*batch, channels).

        Returns:
            The new h, twice.
        """
        x, h, bias_init = inputs, carry, self.activation_bias_init
        f = self.gate_fn(self._map("if", x, self.forget_bias_init) + self._map("hf", h))
        from_h = self._map("hn", h, bias_init if self.reset_gate else None)
        if self.reset_gate:
            from_h = from_h * f
        n = self.activation_fn(self._map("in", x, bias_init) + from_h)
        new_h = (1.0 - f) * n + f * h
        return new_h, new_h
