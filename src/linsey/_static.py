"""Python values as static arguments: what makes two of them the same for a program.

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

# Types of values that are the same for a program where they are equal.
COMPARABLE: set[type] = {
    str, int, bool, bytes, type(None), type, FunctionType, BuiltinFunctionType,
    type(jnp.float32),
}  # fmt: skip


def static_key(value: Any) -> Hashable:
    """Return a key for a value: values with equal keys make the same program.

    Equality is not enough, for `1 == 1.0 == True` and `0.0 == -0.0`; and not needed:
    what has no hash, an array for instance, is compared by its content as pickle sees
    it, which also finds what was changed in place.

    Raises:
        TypeError: the value is not known while a program is traced, or cannot be taken
            apart.
    """
    kind = type(value)
    if kind in COMPARABLE:
        return kind, value
    if isinstance(value, (tuple, list)):
        return kind, tuple(map(static_key, value))
    if isinstance(value, (float, complex, np.generic)):
        return kind, repr(value)
    if isinstance(value, jax.core.Tracer):
        raise TypeError("A traced array is no constant.")
    if isinstance(value, Set):
        return kind, frozenset(map(static_key, value))
    if isinstance(value, Mapping):
        return kind, tuple((static_key(k), static_key(v)) for k, v in value.items())
    if getattr(value, "_bound", None) is not None:
        return kind, value._bound  # a bound module is equal to itself only
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
