"""Python values as constants of compiled programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Set
from types import BuiltinFunctionType, FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Types of values that are equal only if they are the same for a program.
COMPARABLE: set[type] = {
    str, int, bool, bytes, type(None), type, FunctionType, BuiltinFunctionType,
    type(jnp.float32),
}  # fmt: skip


def constant_key(value: Any) -> Hashable:
    """Return a key for a value: values with equal keys make the same program.

    Equality is not enough, for `1 == 1.0 == True` and `0.0 == -0.0`; and not needed:
    what has no hash, an array for instance, is compared by its content, as pickle
    sees it.

    Raises:
        TypeError: the value is unknown to Python, or cannot be taken apart.
    """
    kind = type(value)
    if kind in COMPARABLE:
        return kind, value
    if isinstance(value, (float, complex, np.generic)):
        return kind, repr(value)
    if isinstance(value, jax.core.Tracer):
        raise TypeError("A traced array is no constant.")
    if isinstance(value, (tuple, list)):
        return kind, tuple(map(constant_key, value))
    if isinstance(value, Set):
        return kind, frozenset(map(constant_key, value))
    if isinstance(value, Mapping):
        return kind, tuple((constant_key(k), constant_key(v)) for k, v in value.items())
    if getattr(value, "_bound", None) is not None:
        return kind, value._bound  # a bound module is equal to itself only
    try:
        hash(value)
        by_value = dataclasses.is_dataclass(kind) and kind.__eq__ is not object.__eq__
    except TypeError:
        by_value = True
    if not by_value:
        return kind, value
    parts = value.__reduce_ex__(4)
    return kind, tuple(
        constant_key(tuple(part) if isinstance(part, Iterator) else part)
        for part in parts
    )
