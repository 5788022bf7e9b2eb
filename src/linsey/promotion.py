"""The dtypes that values promote to, whatever promotion JAX is set to.

Layers promote on purpose: a half-precision input meets parameters of float32, and
moments are taken in float32 at least. Under `jax_numpy_dtype_promotion="strict"` JAX
refuses that, which is what a program asks for its own arithmetic. What linsey promotes,
it promotes by these functions: it works under either setting, and what it would promote
without meaning to is an error in its tests, which are strict.
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from linsey.typing import Dtype

__all__ = ["promote_types", "result_type"]


@lru_cache
def promote_types(a: Dtype, b: Dtype) -> jnp.dtype:
    """Return the dtype that two dtypes promote to.

    Example:
        >>> with jax.numpy_dtype_promotion("strict"):
        ...     str(promote_types(jnp.bfloat16, jnp.float32))
        'float32'
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)


def result_type(*values: ArrayLike | Dtype) -> jnp.dtype:
    """Return the dtype that arrays, numbers and dtypes promote to.

    Python's numbers take the dtype of what they are combined with.

    Example:
        >>> with jax.numpy_dtype_promotion("strict"):
        ...     str(result_type(jnp.ones(2, jnp.int8), jnp.float16(1), 2.0))
        'float16'
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*values)
