"""A linear layer whose axes are named by an einsum equation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.errors.layers import EinsumEquationError
from linsey.linen.dtypes import PromoteDtypeFn, promote_dtype
from linsey.linen.initializers import zeros
from linsey.linen.linear.dense import default_kernel_init, kernel_and_bias
from linsey.linen.module import Module, compact, merge_param
from linsey.ops.dot import add_bias
from linsey.typing import Dtype, Initializer, PrecisionLike


class Einsum(Module):
    """Contracts inputs with a kernel: `y = einsum(equation, x, kernel) + bias`.

    The bias has one axis for each axis of the kernel that appears in the output.

    Attributes:
        shape: shape of `kernel`.
        einsum_str: the equation 'input,kernel->output'; given here or at the call.
        use_bias: whether to add a bias.
        dtype: dtype of the computation; none means that of inputs and parameters.
        param_dtype: dtype of the parameters.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`.
        bias_init: initializer of `bias`.
        promote_dtype: brings `(inputs, kernel, bias)` to one dtype.
        preferred_element_type: dtype in which products are summed and returned.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.Einsum((5, 6, 7), "abc,cde->abde")
        >>> variables = layer.init(jax.random.key(0), jnp.ones((3, 4, 5)))
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (6, 7), 'kernel': (5, 6, 7)}}
    """

    shape: Sequence[int]
    einsum_str: str | None = None
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    bias_init: Initializer = zeros
    promote_dtype: PromoteDtypeFn = promote_dtype
    preferred_element_type: Dtype | None = None

    @compact
    def __call__(self, inputs: Array, einsum_str: str | None = None) -> Array:
        """Contracts `inputs` with the kernel.

        Args:
            inputs: the left operand.
            einsum_str: the equation, if the constructor was given none.

        Returns:
            The array that the equation describes, plus the bias.

        Raises:
            ValueError: the equation was given here and to the constructor, or at
                neither place.
            EinsumEquationError: it has no '->', or not two operands.
        """
        equation = merge_param("einsum_str", self.einsum_str, einsum_str)
        equation = equation.replace(" ", "")
        shape = tuple(self.shape)
        bias_axes = _bias_axes(equation, len(shape), np.ndim(inputs))
        bias_shape = tuple(shape[axis] for axis in bias_axes if axis is not None)
        kernel, bias = kernel_and_bias(self, shape, bias_shape)
        x, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        y = jnp.einsum(
            equation,
            x,
            kernel,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
        )
        if bias is None:
            return y
        broadcast = [1 if axis is None else shape[axis] for axis in bias_axes]
        return add_bias(y, lax.reshape(bias, broadcast))


@lru_cache
def _bias_axes(
    equation: str, kernel_rank: int, input_rank: int
) -> tuple[int | None, ...]:
    """Finds for each axis of the output the axis of the kernel it comes from."""
    if "->" not in equation:
        raise EinsumEquationError(equation, 'must be explicit and include "->"')
    if (commas := equation.count(",")) != 1:
        raise EinsumEquationError(
            equation,
            "must have exactly two operands and therefore, exactly one comma "
            f"character, instead of {commas}",
        )
    operands, output = equation.split("->")
    left, right = operands.split(",")
    covered = kernel_rank - _letters(right)
    if covered < 0 or (covered and "..." not in right):
        raise EinsumEquationError(
            equation,
            f"names {_letters(right)} axes of the kernel, which has {kernel_rank}",
        )
    kernel = _labels(right, covered)
    covered = max(covered, input_rank - _letters(left))
    return tuple(
        kernel.index(label) if label in kernel else None
        for label in _labels(output, covered)
    )


def _letters(term: str) -> int:
    return len(term.replace("...", ""))


def _labels(term: str, covered: int) -> list[str | int]:
    """Names the axes of a term; those of its ellipsis count from the last one."""
    before, dots, after = term.partition("...")
    return [*before, *(range(-covered, 0) if dots else ()), *after]
