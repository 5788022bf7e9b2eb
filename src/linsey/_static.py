"""Python values as static arguments, and when two of them give the same program.

Example:
    >>> static_key([1, 2.0]) == static_key([1, 2.0])
    True
    >>> static_key([1, 2.0]) == static_key([1, 2])
    False
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Set
from types import BuiltinFunctionType, FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Types whose values give the same program if they are equal.
COMPARABLE: set[type] = {
    str, int, bool, bytes, type(None), type, FunctionType, BuiltinFunctionType,
    type(jnp.float32),
}  # fmt: skip


def static_key(value: Any) -> Hashable:
    """Return a key for a value: values with equal keys give the same program.

    Equality is not sufficient, because `1 == 1.0 == True` and `0.0 == -0.0`. It is not
    necessary either: values without a hash, such as arrays, are compared by the content
    that pickle would store, which also detects changes in place.

    Raises:
        TypeError: the value is traced, or cannot be decomposed.
    """
    kind = type(value)
    if kind in COMPARABLE:
        return kind, value
    if isinstance(value, (tuple, list)):
        return kind, tuple(map(static_key, value))
    if isinstance(value, (float, complex, np.generic)):
        return kind, repr(value)
    if isinstance(value, jax.core.Tracer):
        raise TypeError("A traced array is not a constant.")
    if isinstance(value, Set):
        return kind, frozenset(map(static_key, value))
    if isinstance(value, Mapping):
        return kind, tuple((static_key(k), static_key(v)) for k, v in value.items())
    if getattr(value, "_bound", None) is not None:
        return kind, value._bound  # a bound module is equal only to itself
    try:
        hash(value)
        is_compared_by_fields = dataclasses.is_dataclass(kind)
    except TypeError:
        is_compared_by_fields = True
    if not is_compared_by_fields or kind.__eq__ is object.__eq__:
        return kind, value
    parts = value.__reduce_ex__(4)
    return kind, tuple(
        static_key(tuple(part) if isinstance(part, Iterator) else part)
        for part in parts
    )
