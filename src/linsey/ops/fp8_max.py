"""A dtype whose values add up to their maximum.

If a scale is used several times, as in a scan, automatic differentiation adds up its
cotangents. The "gradient" of a scale is its next value (see `linsey.ops.fp8`), and a
sum of next values means nothing, while the largest of them is the one to use.
Converted to `fp32_max_grad`, a scale or a history is an array like any other, except
that its cotangents are added by taking the maximum. JAX does so only under `jax.jit`.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from linsey.ops.fp8 import E4M3, in_qdq
    >>> def used_twice(scale, history):
    ...     meta = scale.astype(fp32_max_grad), history.astype(fp32_max_grad)
    ...     values = jnp.array([3.0]), jnp.array([5.0])
    ...     return sum(in_qdq(jnp.float32, E4M3, x, *meta) for x in values)[0]
    >>> gradients = jax.jit(jax.grad(used_twice, (0, 1)))
    >>> _, history = gradients(jnp.ones(1), jnp.zeros(2))
    >>> history.tolist()
    [5.0, 0.0]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# JAX has no public interface for custom dtypes.
from jax._src import core, dtypes
from jax.typing import ArrayLike

__all__ = [
    "Fp8MetaTyRules",
    "fm32",
    "fp8_meta_dtype",
    "fp8_meta_dtype_wrapper",
    "fp32_max_grad",
]


class fp8_meta_dtype(dtypes.extended):  # noqa: N801 (the name in Flax)
    """The abstract type of the dtypes whose values add up to their maximum."""


class Fp8MetaTyRules:
    """The rules that JAX requires of a dtype that NumPy does not have.

    All of them take the dtype, and arrays or shapes.
    """

    @staticmethod
    def physical_element_aval(dtype: fp8_meta_dtype_wrapper) -> core.ShapedArray:
        """Return the abstract value that one entry is stored as."""
        return core.ShapedArray((), dtype.float_dtype)

    @staticmethod
    def tangent_dtype(dtype: fp8_meta_dtype_wrapper) -> fp8_meta_dtype_wrapper:
        """Return the dtype of cotangents: the same."""
        return dtype

    @staticmethod
    def add(dt: fp8_meta_dtype_wrapper, x: jax.Array, y: jax.Array) -> jax.Array:
        """Add two values: return the larger one."""
        x, y = (lax.convert_element_type(value, dt.float_dtype) for value in (x, y))
        return lax.convert_element_type(jnp.maximum(x, y), dt)

    @staticmethod
    def zero(dt: fp8_meta_dtype_wrapper) -> jax.Array:
        """Return the neutral element of the addition: minus infinity."""
        return lax.convert_element_type(np.array(-np.inf, dt.float_dtype), dt)

    @staticmethod
    def full(
        shape: tuple[int, ...], fill_value: ArrayLike, dtype: fp8_meta_dtype_wrapper
    ) -> jax.Array:
        """Return an array filled with one value."""
        filled = jnp.full(shape, fill_value, dtype.float_dtype)
        return lax.convert_element_type(filled, dtype)

    @staticmethod
    def convert_from(dtype: fp8_meta_dtype_wrapper, other: object) -> bool:
        """Return whether values can be converted to another dtype: the stored one."""
        return other == dtype.float_dtype

    @staticmethod
    def convert_to(other: object, dtype: fp8_meta_dtype_wrapper) -> bool:
        """Return whether values of another dtype can be converted to this one."""
        return other == dtype.float_dtype

    @staticmethod
    def global_sharded_result_handler(
        aval: core.ShapedArray, out_sharding: Any, committed: bool
    ) -> Callable[..., Any]:
        """Return a function that makes an array of the buffers a program returns."""
        from jax._src import earray, sharding_impls
        from jax._src.interpreters import pxla

        physical = core.physical_aval(aval)
        sharding = sharding_impls.physical_sharding(aval, out_sharding)
        make = pxla.global_result_handlers[core.ShapedArray]
        handler = make(physical, sharding, committed)
        return handler.wrap(lambda array: earray.EArray(aval, array))


@dataclasses.dataclass(unsafe_hash=True)
class fp8_meta_dtype_wrapper(dtypes.ExtendedDType):  # noqa: N801 (the name in Flax)
    """A dtype of floating-point numbers whose sum is their maximum.

    Args:
        float_dtype: the dtype in which values are stored.
    """

    float_dtype: np.dtype
    _rules: type = Fp8MetaTyRules
    type: type = fp8_meta_dtype

    def __repr__(self) -> str:
        return f"fp8_meta{self.float_dtype.itemsize * 8}"

    name = property(__repr__)


fp32_max_grad = fp8_meta_dtype_wrapper(np.dtype(np.float32))
"""Float32 whose sum is the maximum."""

fm32 = fp32_max_grad
"""The short name of `fp32_max_grad`."""
