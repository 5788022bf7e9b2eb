"""Random keys and names."""

from __future__ import annotations

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linsey.errors.base import ArgumentTypeError
from linsey.treex.treeo.names import snake_case, unique_name
from linsey.treex.treeo.sentinels import ArrayLike

__all__ = ["Key", "iter_split", "lower_snake_case", "unique_name"]

lower_snake_case = snake_case


def Key(seed: Any) -> Any:
    """Return the random key for a seed; return a key unchanged.

    Example:
        >>> Key(42)
        Array([ 0, 42], dtype=uint32)
    """
    if isinstance(seed, numbers.Integral) or (
        isinstance(seed, np.ndarray | jax.Array)
        and seed.ndim == 0
        and jnp.issubdtype(seed.dtype, jnp.integer)
    ):
        return jax.random.PRNGKey(seed)  # type: ignore[arg-type]
    return jnp.asarray(seed) if isinstance(seed, np.ndarray) else seed


def as_key(value: object) -> jax.Array:
    """Return the key for a seed, or the given key.

    Raises:
        ArgumentTypeError: the value is neither a seed nor a key.
    """
    key: jax.Array = Key(value)
    if not isinstance(key, ArrayLike):
        raise ArgumentTypeError(
            f"A random key is {value!r}.",
            "Keys come from an integer, `jax.random.key` or `jax.random.PRNGKey`.",
            "Write `tx.Key(42)`.",
        )
    return key


def iter_split(key: jax.Array, num: int = 2) -> tuple[jax.Array, ...]:
    """Split a key into a tuple of keys.

    Example:
        >>> a, b = iter_split(Key(42))
        >>> a.shape
        (2,)
    """
    return tuple(jax.random.split(key, num))
