"""Dtype promotion that does not depend on JAX's setting.

Layers promote on purpose: a half-precision input meets float32 parameters, and moments
are taken in float32 at least. With `jax_numpy_dtype_promotion="strict"`, which a
program may set for its own arithmetic, JAX refuses that. linsey therefore promotes with
these functions, which work under either setting. Its tests use strict promotion, so any
unintended promotion is an error there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from linsey.typing import Dtype

__all__ = ["promote", "promote_types", "promotes", "result_type"]


P = ParamSpec("P")
T = TypeVar("T")


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

    Python's numbers take the dtype of the values they are combined with.

    Example:
        >>> with jax.numpy_dtype_promotion("strict"):
        ...     str(result_type(jnp.ones(2, jnp.int8), jnp.float16(1), 2.0))
        'float16'
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*values)


def promote(*arrays: jax.Array) -> list[jax.Array]:
    """Convert arrays to the dtype that they promote to.

    Example:
        >>> with jax.numpy_dtype_promotion("strict"):
        ...     x, y = promote(jnp.ones(2, jnp.bfloat16), jnp.ones(2))
        >>> str(x.dtype), str(y.dtype)
        ('float32', 'float32')
    """
    if all(x.dtype == arrays[0].dtype for x in arrays):
        return list(arrays)
    dtype = result_type(*arrays)
    return [jax.lax.convert_element_type(x, dtype) for x in arrays]


def promotes(function: Callable[P, T]) -> Callable[P, T]:
    """Declare that the arithmetic of a function promotes, as JAX does by default.

    Example:
        >>> @promotes
        ... def blend(gate, x, y):
        ...     return gate * x + (1 - gate) * y
        >>> with jax.numpy_dtype_promotion("strict"):
        ...     str(blend(jnp.float32(0.5), jnp.bfloat16(1), jnp.bfloat16(3)).dtype)
        'float32'
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return call
