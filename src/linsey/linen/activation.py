"""Activations: the functions of `jax.nn`, and the layers that learn their slope."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.nn import celu as celu
from jax.nn import elu as elu
from jax.nn import gelu as gelu
from jax.nn import glu as glu
from jax.nn import hard_sigmoid as hard_sigmoid
from jax.nn import hard_silu as hard_silu
from jax.nn import hard_swish as hard_swish
from jax.nn import hard_tanh as hard_tanh
from jax.nn import leaky_relu as leaky_relu
from jax.nn import log_sigmoid as log_sigmoid
from jax.nn import log_softmax as log_softmax
from jax.nn import logsumexp as logsumexp
from jax.nn import one_hot as one_hot
from jax.nn import relu as relu
from jax.nn import relu6 as relu6
from jax.nn import selu as selu
from jax.nn import sigmoid as sigmoid
from jax.nn import silu as silu
from jax.nn import soft_sign as soft_sign
from jax.nn import softmax as softmax
from jax.nn import softplus as softplus
from jax.nn import standardize as standardize
from jax.nn import swish as swish
from jax.nn.initializers import constant
from jax.numpy import tanh as tanh

from linsey.linen.module import Module, compact
from linsey.typing import Dtype

normalize = standardize


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
