"""Markers and wrappers: `Nothing`, `Missing`, `Hashable` and `Opaque`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import jax

__all__ = [
    "MISSING",
    "NOTHING",
    "ArrayLike",
    "Hashable",
    "Missing",
    "Nothing",
    "Opaque",
    "OpaquePredicate",
]

T = TypeVar("T")
OpaquePredicate = Callable[["Opaque[Any]", Any], bool]


@jax.tree_util.register_pytree_node_class
class Nothing:
    """The marker for a value that a filter removed: a pytree without leaves.

    All instances are equal.

    Example:
        >>> import jax
        >>> jax.tree.leaves([1, Nothing(), 2]), Nothing() == Nothing()
        ([1, 2], True)
    """

    __slots__ = ()

    def tree_flatten(self) -> tuple[tuple[()], None]:
        """Return no children."""
        return (), None

    @classmethod
    def tree_unflatten(cls, aux: None, children: object) -> Nothing:
        """Return the marker."""
        return NOTHING

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Nothing)

    def __hash__(self) -> int:
        return hash(Nothing)

    def __repr__(self) -> str:
        return "Nothing"


NOTHING = Nothing()


class Missing:
    """The marker for an argument that was not given, where `None` is a valid value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()


class Hashable(Generic[T]):
    """A wrapper that makes any value static: compared and hashed by identity.

    Args:
        value: the wrapped value.

    Example:
        >>> table = Hashable([1, 2])
        >>> table.value, table == Hashable([1, 2]), table == table
        ([1, 2], False, True)
    """

    value: T

    def __init__(self, value: T) -> None:
        self.__dict__["value"] = value

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"`Hashable` cannot be changed: `{name}` was set. It stands for its value "
            "in the structure of compiled programs. Make a new one: Hashable(value)."
        )

    def __repr__(self) -> str:
        return f"Hashable({self.value})"


class Opaque(Generic[T]):
    """Hides a static value: a program compiled for one such value is used for others.

    Two opaque values are equal if `predicate(self, other)` is true. If there is no
    predicate, they are equal if they have the same type and, for arrays, the same shape
    and dtype.

    Args:
        value: the hidden value.
        predicate: decides on equality.

    Example:
        >>> Opaque("one", None) == Opaque("two", None)
        True
        >>> Opaque("one", None) == Opaque(1, None)
        False
    """

    __slots__ = ("predicate", "value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: T, predicate: OpaquePredicate | None = None) -> None:
        self.value = value
        self.predicate = predicate

    def __eq__(self, other: object) -> bool:
        if self.predicate is not None:
            return bool(self.predicate(self, other))
        if not isinstance(other, Opaque) or type(self.value) is not type(other.value):
            return False
        a, b = self.value, other.value
        return not isinstance(a, ArrayLike) or (a.shape, a.dtype) == (b.shape, b.dtype)

    def __repr__(self) -> str:
        return f"Hidden({self.value})"


@runtime_checkable
class ArrayLike(Protocol):
    """The type of objects with a shape and a dtype."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""

    @property
    def dtype(self) -> Any:
        """The type of the entries."""
