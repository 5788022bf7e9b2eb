"""The rectifier with a learned slope."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.nn.initializers import constant

from linsey.linen.module import Module, compact
from linsey.ops.deferred import resolve
from linsey.typing import Dtype


class PReLU(Module):
    """Rectify with a learned slope: `y = x` if `x >= 0`, else `a x`.

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
        """Rectify an array of any shape."""
        inputs = resolve(inputs)
        init = constant(self.negative_slope_init)
        slope = self.param("negative_slope", init, (), self.param_dtype)
        slope = lax.convert_element_type(slope, inputs.dtype)
        return lax.select(inputs >= 0, inputs, slope * inputs)
