"""Products in 8-bit floating point as modules, for `dot_general_cls` of other layers.

Their state (scales and histories) is in the collection `_overwrite_with_gradient`. The
"gradients" of this collection are its next values: store them in place of the old
values, without the optimizer. See `linsey.ops.fp8`.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array

from linsey.linen.initializers import ones, zeros
from linsey.linen.module import Module, nowrap
from linsey.ops import fp8
from linsey.ops.fp8 import *  # noqa: F403
from linsey.ops.fp8_max import *  # noqa: F403
from linsey.typing import DotGeneralT, Dtype, PrecisionLike

OVERWRITE_WITH_GRADIENT = "_overwrite_with_gradient"


class Fp8DotGeneralBase(Module):
    """The state of a product in 8 bits.

    Attributes:
        amax_history_length: number of largest absolute values to remember.
        e4m3_dtype: dtype of the operands.
        e5m2_dtype: dtype of the gradients.
    """

    amax_history_length: int = 1024
    e4m3_dtype: Dtype = jnp.float8_e4m3fn
    e5m2_dtype: Dtype = jnp.float8_e5m2

    def setup(self) -> None:
        """Declare the histories and scales."""
        kinds = {"amax_history": (zeros, self.amax_history_length), "scale": (ones, 1)}
        for kind, (init, size) in kinds.items():
            for of in ("input", "kernel", "output_grad"):
                name, made = f"{of}_{kind}", (init, None, (size,), jnp.float32)
                setattr(self, name, self.variable(OVERWRITE_WITH_GRADIENT, name, *made))

    @nowrap
    def _state(self, of: str) -> tuple[Array, Array]:
        """Return the scale and history of `input`, `kernel` or `output_grad`."""
        names = f"{of}_scale", f"{of}_amax_history"
        scale, history = (getattr(self, name).value for name in names)
        return scale, history

    @nowrap
    def _dot_general(self) -> DotGeneralT:
        """Return a product with this state, called like `jax.lax.dot_general`."""
        state = {}
        for side, of in (("lhs", "input"), ("rhs", "kernel"), ("grad", "output_grad")):
            state[f"{side}_scale"], state[f"{side}_amax_history"] = self._state(of)
        return partial(fp8.fp8_scaled_dot_general, **state)


class Fp8DotGeneralOp(Fp8DotGeneralBase):
    """A product of operands rounded to 8 bits, computed in their own dtype.

    Deprecated: `Fp8DirectDotGeneralOp` computes in 8 bits.

    Attributes:
        amax_history_length: number of largest absolute values to remember.
        e4m3_dtype: dtype of the operands.
        e5m2_dtype: dtype of the gradients.

    Example:
        >>> import jax, jax.numpy as jnp, warnings
        >>> import linsey.linen as nn
        >>> warnings.simplefilter("ignore", DeprecationWarning)
        >>> layer = nn.Dense(4, dot_general_cls=nn.Fp8DotGeneralOp)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
        >>> sorted(variables["_overwrite_with_gradient"]["Fp8DotGeneralOp_0"])[:2]
        ['input_amax_history', 'input_scale']
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self) is Fp8DotGeneralOp:
            message = (
                "The Fp8DotGeneralOp is deprecated. Use Fp8DirectDotGeneralOp or "
                "Fp8Einsum instead."
            )
            warnings.warn(message, DeprecationWarning, stacklevel=3)

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Multiply like `jax.lax.dot_general`."""
        x, kernel, dimension_numbers = args[:3]
        kernel = jnp.asarray(kernel)
        dtype = kernel.dtype
        x = jnp.asarray(x, dtype)
        x = fp8.in_qdq(dtype, self.e4m3_dtype, x, *self._state("input"))
        kernel = fp8.in_qdq(dtype, self.e4m3_dtype, kernel, *self._state("kernel"))
        y = fp8.dot_general_with_precision(x, kernel, dimension_numbers)
        return fp8.out_qdq(dtype, self.e5m2_dtype, y, *self._state("output_grad"))


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
        """Multiply like `jax.lax.dot_general`."""
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

    e4m3_dtype: Dtype = jnp.float8_e4m3fnuz
    e5m2_dtype: Dtype = jnp.float8_e5m2fnuz


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
        precision: PrecisionLike = None,
        preferred_element_type: Dtype | None = None,
    ) -> Array:
        """Contract two operands.

        Args:
            eqn: the equation, see `jax.numpy.einsum`.
            lhs: left operand.
            rhs: right operand; its dtype is that of the computation.
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
