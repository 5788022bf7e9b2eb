"""Arrays filled with one number, made without a compiled program if possible.

Outside of a trace XLA would compile a program for each shape, which takes longer than
writing the numbers (`benchmarks/first_step.py`).
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from linsey.core.tracers import current_trace

LARGEST = 2**16
"""Number of entries; XLA fills larger arrays faster, with several threads."""


def zeros(shape: Any, dtype: DTypeLike) -> jax.Array:
    """Return the same array as `jnp.zeros`."""
    return (
        _filled(0, shape, dtype) if _is_plain(shape, dtype) else jnp.zeros(shape, dtype)
    )


def ones(shape: Any, dtype: DTypeLike) -> jax.Array:
    """Return the same array as `jnp.ones`."""
    return (
        _filled(1, shape, dtype) if _is_plain(shape, dtype) else jnp.ones(shape, dtype)
    )


def _filled(value: int, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    return jax.device_put(np.full(shape, value, dtype), may_alias=False)


def _is_plain(shape: Any, dtype: Any) -> bool:
    """Return whether an array would be computed now, by the one CPU that JAX takes."""
    config: Any = jax.config
    return (
        type(shape) is tuple
        and dtype is not None
        and current_trace() == _no_trace()
        and all(type(n) is int for n in shape)
        and math.prod(shape) <= LARGEST
        and not jax.dtypes.issubdtype(dtype, jax.dtypes.extended)
        and jax.dtypes.canonicalize_dtype(dtype) == dtype
        and config.jax_default_device is None
        and jax.sharding.get_abstract_mesh().empty
        and jax.default_backend() == "cpu"
    )


@functools.cache
def _no_trace() -> object:
    # This may be called inside a trace, while a new thread begins outside of any.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(current_trace).result()
