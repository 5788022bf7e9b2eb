"""References to variables, and the metadata boxes their values may be in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jax
import numpy as np

from linsey.core import meta

if TYPE_CHECKING:
    from linsey.core.scope.cursor import Scope

T = TypeVar("T")


class Variable(Generic[T]):
    """A reference to one variable of a scope: read and write it through `value`."""

    __slots__ = ("scope", "collection", "name", "unbox")

    def __init__(self, scope: Scope, collection: str, name: str, unbox: bool = True):
        self.scope = scope
        self.collection = collection
        self.name = name
        self.unbox = unbox

    @property
    def value(self) -> T:
        """The value now; axis metadata boxes are removed if `unbox` is set."""
        value = self.scope.get_variable(self.collection, self.name)
        return unbox_fast(value) if self.unbox else value

    @value.setter
    def value(self, value: T) -> None:
        if self.unbox:
            current = self.scope.get_variable(self.collection, self.name)
            if current is not None and not is_plain_array(current):
                value = _keep_boxes(current, value)
        self.scope.put_variable(self.collection, self.name, value)

    def is_mutable(self) -> bool:
        """Whether the collection of this variable may be written."""
        return self.scope.is_mutable_collection(self.collection)


def _keep_boxes(boxed: Any, value: Any) -> Any:
    """`value` in the metadata boxes of `boxed`, if it has the same structure."""
    before = jax.tree_util.tree_structure(boxed, meta.is_axis_metadata)
    after = jax.tree_util.tree_structure(value, meta.is_axis_metadata)
    return meta.replace_boxed(boxed, value) if before == after else value


# The types found to be plain so far: a look-up here spares the `isinstance`.
PLAIN_TYPES: set[type] = set()


def is_plain_array(value: Any) -> bool:
    """Whether a value is an array or scalar, and so holds no metadata box."""
    kind = type(value)
    if kind in PLAIN_TYPES:
        return True
    if isinstance(value, (jax.Array, np.ndarray, np.generic, float, int)):
        PLAIN_TYPES.add(kind)
        return True
    return False


def unbox_fast(value: Any) -> Any:
    """`meta.unbox` that costs one set look-up for an array."""
    plain = type(value) in PLAIN_TYPES or is_plain_array(value)
    return value if plain else meta.unbox(value)
