"""Activations: the functions of `jax.nn`, and the layers that learn their slope."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.nn import (
    celu,
    elu,
    gelu,
    glu,
    hard_sigmoid,
    hard_silu,
    hard_swish,
    hard_tanh,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    logsumexp,
    one_hot,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    soft_sign,
    softmax,
    softplus,
    standardize,
    swish,
)
from jax.nn.initializers import constant
from jax.numpy import tanh

from linsey.linen.module import Module, compact
from linsey.typing import Dtype

normalize = standardize

__all__ = [
    "PReLU",
    "celu",
    "elu",
    "gelu",
    "glu",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "normalize",
    "one_hot",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softmax",
    "softplus",
    "standardize",
    "swish",
    "tanh",
]


class PReLU(Module):
    """Rectifies with a slope that is learned: `y = x` if `x >= 0`, else `a x`.

    Attributes:
        param_dtype: dtype of the slope.
        negative_slope_init: its initial value.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> x = jnp.array([-2.0, 3.0])
        >>> y, variables = nn.PReLU(negative_slope_init=0.5).init_with_output(
        ...     jax.random.key(0), x
        ... )
        >>> y.tolist(), variables["params"]["negative_slope"].tolist()
        ([-1.0, 3.0], 0.5)

    References:
        He et al. 2015, https://arxiv.org/abs/1502.01852
    """

    param_dtype: Dtype = jnp.float32
    negative_slope_init: float = 0.01

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Rectifies an array of any shape."""
        slope = self.param(
            "negative_slope",
            constant(self.negative_slope_init),
            (),
            self.param_dtype,
        )
        slope = lax.convert_element_type(slope, inputs.dtype)
        return lax.select(inputs >= 0, inputs, slope * inputs)
