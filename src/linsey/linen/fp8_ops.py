"""Products in 8-bit floating point as modules, for `dot_general_cls` of other layers.

Their state, scales and histories, is in the collection `_overwrite_with_gradient`: its
"gradients" are the next values, to be stored rather than added by the optimizer. See
`linsey.ops.fp8`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from linsey.linen.initializers import ones, zeros
from linsey.linen.module import Module
from linsey.ops.fp8 import (
    compute_amax_history,
    compute_scale,
    dequantize,
    dot_general_with_precision,
    dot_general_with_precision_jvp,
    fp8_scaled_dot_general,
    get_fp8_max,
    in_q,
    in_q_bwd,
    in_q_fwd,
    in_qdq,
    in_qdq_bwd,
    in_qdq_fwd,
    out_dq,
    out_dq_bwd,
    out_dq_fwd,
    out_qdq,
    out_qdq_bwd,
    out_qdq_fwd,
    qdq,
    quantize,
    quantize_dequantize_update,
    quantized_dot,
    quantized_dot_bwd,
    quantized_dot_fwd,
    update_fp8_meta,
)
from linsey.typing import Dtype

__all__ = [
    "Fp8DirectDotGeneralOp",
    "Fp8DotGeneral",
    "Fp8DotGeneralBase",
    "Fp8DotGeneralOp",
    "Fp8Einsum",
    "NANOOFp8DotGeneralOp",
    "OVERWRITE_WITH_GRADIENT",
    "compute_amax_history",
    "compute_scale",
    "dequantize",
    "dot_general_with_precision",
    "dot_general_with_precision_jvp",
    "fp8_scaled_dot_general",
    "get_fp8_max",
    "in_q",
    "in_q_bwd",
    "in_q_fwd",
    "in_qdq",
    "in_qdq_bwd",
    "in_qdq_fwd",
    "out_dq",
    "out_dq_bwd",
    "out_dq_fwd",
    "out_qdq",
    "out_qdq_bwd",
    "out_qdq_fwd",
    "qdq",
    "quantize",
    "quantize_dequantize_update",
    "quantized_dot",
    "quantized_dot_bwd",
    "quantized_dot_fwd",
    "update_fp8_meta",
]

OVERWRITE_WITH_GRADIENT = "_overwrite_with_gradient"


class Fp8DotGeneralBase(Module):
    """The state of a product in 8 bits.

    Attributes:
        amax_history_length: number of largest absolute values to remember.
        e4m3_dtype: dtype of the operands.
        e5m2_dtype: dtype of the gradients.
    """

    amax_history_length: int = 1024
    e4m3_dtype: Any = jnp.float8_e4m3fn
    e5m2_dtype: Any = jnp.float8_e5m2

    def setup(self) -> None:
        """Declares histories and scales."""
        history = (zeros, None, (self.amax_history_length,), jnp.float32)
        scale = (ones, None, (1,), jnp.float32)
        declare = partial(self.variable, OVERWRITE_WITH_GRADIENT)
        self.input_amax_history = declare("input_amax_history", *history)
        self.kernel_amax_history = declare("kernel_amax_history", *history)
        self.output_grad_amax_history = declare("output_grad_amax_history", *history)
        self.input_scale = declare("input_scale", *scale)
        self.kernel_scale = declare("kernel_scale", *scale)
        self.output_grad_scale = declare("output_grad_scale", *scale)

    def _dot_general(self) -> Any:
        """A product with this state, called like `jax.lax.dot_general`."""
        return partial(
            fp8_scaled_dot_general,
            lhs_scale=self.input_scale.value,
            rhs_scale=self.kernel_scale.value,
            grad_scale=self.output_grad_scale.value,
            lhs_amax_history=self.input_amax_history.value,
            rhs_amax_history=self.kernel_amax_history.value,
            grad_amax_history=self.output_grad_amax_history.value,
        )


class Fp8DotGeneralOp(Fp8DotGeneralBase):
    """A product of operands rounded to 8 bits, computed in their own dtype.

    Attributes:
        amax_history_length: number of largest absolute values to remember.
        e4m3_dtype: dtype of the operands.
        e5m2_dtype: dtype of the gradients.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.Dense(4, dot_general_cls=nn.Fp8DotGeneralOp)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> sorted(variables["_overwrite_with_gradient"]["Fp8DotGeneralOp_0"])[:2]
        ['input_amax_history', 'input_scale']
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Multiplies like `jax.lax.dot_general`."""
        x, kernel, dimension_numbers = args[:3]
        kernel = jnp.asarray(kernel)
        dtype = kernel.dtype
        operands = (dtype, self.e4m3_dtype)
        x = in_qdq(
            *operands,
            jnp.asarray(x, dtype),
            self.input_scale.value,
            self.input_amax_history.value,
        )
        kernel = in_qdq(
            *operands, kernel, self.kernel_scale.value, self.kernel_amax_history.value
        )
        y = dot_general_with_precision(x, kernel, dimension_numbers)
        return out_qdq(
            dtype,
            self.e5m2_dtype,
            y,
            self.output_grad_scale.value,
            self.output_grad_amax_history.value,
        )


class Fp8DirectDotGeneralOp(Fp8DotGeneralBase):
    """A product computed in 8 bits.

    Attributes:
        amax_history_length: number of largest absolute values to remember.
        e4m3_dtype: dtype of the operands.
        e5m2_dtype: dtype of the gradients.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.Dense(4, dot_general_cls=nn.Fp8DirectDotGeneralOp)
        >>> y, _ = layer.init_with_output(jax.random.key(0), jnp.ones((2, 3)))
        >>> y.shape, y.dtype
        ((2, 4), dtype('float32'))
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Multiplies like `jax.lax.dot_general`."""
        x, kernel, dimension_numbers = args[:3]
        kernel = jnp.asarray(kernel)
        x = jnp.asarray(x, kernel.dtype)
        return self._dot_general()(x, kernel, dimension_numbers)


Fp8DotGeneral = Fp8DirectDotGeneralOp


class NANOOFp8DotGeneralOp(Fp8DotGeneralOp):
    """`Fp8DotGeneralOp` in the 8-bit dtypes of AMD's accelerators.

    Attributes:
        amax_history_length: number of largest absolute values to remember.
        e4m3_dtype: dtype of the operands.
        e5m2_dtype: dtype of the gradients.
    """

    e4m3_dtype: Any = jnp.float8_e4m3fnuz
    e5m2_dtype: Any = jnp.float8_e5m2fnuz


class Fp8Einsum(Fp8DotGeneralBase):
    """An einsum of two operands in 8 bits.

    Attributes:
        amax_history_length: number of largest absolute values to remember.
        e4m3_dtype: dtype of the operands.
        e5m2_dtype: dtype of the gradients.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
        >>> y, _ = nn.Fp8Einsum().init_with_output(jax.random.key(0), "ab,bc->ac", x, w)
        >>> y[0, 0].item()
        3.0
    """

    def __call__(
        self,
        eqn: str,
        lhs: Array,
        rhs: Array,
        precision: lax.Precision | None = None,
        preferred_element_type: Dtype | None = None,
    ) -> Array:
        """Contracts two operands.

        Args:
            eqn: the equation, see `jax.numpy.einsum`.
            lhs: left operand.
            rhs: right operand, whose dtype is that of the computation.
            precision: has no effect.
            preferred_element_type: dtype of the result.

        Returns:
            The array that the equation describes.
        """
        rhs = jnp.asarray(rhs)
        return jnp.einsum(
            eqn,
            jnp.asarray(lhs, rhs.dtype),
            rhs,
            precision=precision,
            preferred_element_type=preferred_element_type,
            _dot_general=self._dot_general(),
        )
