"""Identifiers that are unique in the process, also when they are copied.

Example:
    >>> first, second = uuid(), uuid()
    >>> first == first, first == second
    (True, False)
"""

from __future__ import annotations

import itertools

__all__ = ["FlaxId", "UUIDManager", "uuid"]


class FlaxId:
    """An identifier that is equal only to itself; a copy is a new identifier.

    Args:
        rawid: a number that no other identifier has.
    """

    def __init__(self, rawid: int) -> None:
        self.id = rawid

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FlaxId) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"FlaxId({self.id})"

    def __copy__(self) -> FlaxId:
        return uuid()

    def __deepcopy__(self, memo: dict[int, object]) -> FlaxId:
        return uuid()


class UUIDManager:
    """Creates identifiers, for all threads."""

    def __init__(self) -> None:
        # `next` of a count is a single step of the interpreter, so no lock is needed.
        self._numbers = itertools.count(1)

    def __call__(self) -> FlaxId:
        """Return an identifier that was never returned before."""
        return FlaxId(next(self._numbers))


uuid = UUIDManager()
