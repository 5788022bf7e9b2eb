"""Identifiers that are unique in the process, and stay so when copied.

Example:
    >>> first, second = uuid(), uuid()
    >>> first == first, first == second
    (True, False)
"""

from __future__ import annotations

import itertools
from typing import Any

__all__ = ["FlaxId", "UUIDManager", "uuid"]


class FlaxId:
    """An identifier that is equal to itself alone; a copy is a new one.

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

    def __deepcopy__(self, memo: dict[int, Any]) -> FlaxId:
        return uuid()


class UUIDManager:
    """Gives out identifiers, to all threads."""

    def __init__(self) -> None:
        # `next` of a count is one step of the interpreter: no lock is needed.
        self._numbers = itertools.count(1)

    def __call__(self) -> FlaxId:
        """Returns an identifier that was never given out before."""
        return FlaxId(next(self._numbers))


uuid = UUIDManager()
