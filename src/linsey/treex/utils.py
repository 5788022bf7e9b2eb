"""Random keys and the names of things."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linsey.errors.treex import KeyTypeError
from linsey.treex.treeo import ArrayLike
from linsey.treex.treeo.names import snake_case, unique_name

__all__ = ["Key", "iter_split", "lower_snake_case", "unique_name"]

lower_snake_case = snake_case


def Key(seed: int | Any) -> Any:
    """A random key: that of a seed, or the key that was given.

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


def as_key(value: Any) -> Any:
    """The key of a seed, or the key that was given.

    Raises:
        KeyTypeError: it is neither.
    """
    key = Key(value)
    if not isinstance(key, ArrayLike):
        raise KeyTypeError(value)
    return key


def iter_split(key: Any, num: int = 2) -> tuple[Any, ...]:
    """Splits a key into a tuple of keys.

    Example:
        >>> a, b = iter_split(Key(42))
        >>> a.shape
        (2,)
    """
    return tuple(jax.random.split(key, num))


def named_leaves(path: tuple[str, ...], value: Any) -> list[tuple[str, Any]]:
    """The objects in nested containers, named with the keys before them."""
    if isinstance(value, list | tuple):
        return [pair for item in value for pair in named_leaves(path, item)]
    if isinstance(value, Mapping):
        return [
            pair
            for name, item in value.items()
            for pair in named_leaves((*path, str(name)), item)
        ]
    return [("/".join((*path, own_name(value))), value)]


def own_name(value: Any) -> str:
    """The `name` of an object, or its class or function in snake case."""
    name = getattr(value, "name", None)
    if name:
        return name
    return snake_case(getattr(value, "__name__", None) or type(value).__name__)


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of the pairs, with later ones of a name counted up."""
    result: dict[str, Any] = {}
    for name, value in pairs:
        result[unique_name(name, result.__contains__)] = value
    return result
