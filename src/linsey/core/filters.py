"""Filters, which select collections.

A filter, as users write it, is `True` (all), `False` (none), one name, a set or
sequence of names, or `DenyList(filter)` (all but these). Inside the library a filter is
normalized once, at the boundary, to a `Selection`, which supports `in`, `|`, `&`, `-`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from linsey import errors

__all__ = ["CollectionFilter", "DenyList", "Filter", "PRNGSequenceFilter", "Selection"]
__all__ += ["filter_to_set", "group_collections", "in_filter", "is_filter_empty"]
__all__ += ["intersect_filters", "subtract_filters", "union_filters"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DenyList:
    """A filter that selects all collections except those that `deny` selects.

    Example:
        >>> in_filter(DenyList("params"), "batch_stats")
        True

    Attributes:
        deny: the filter that is negated.
    """

    deny: Filter


Filter = bool | str | Collection[str] | DenyList
"""A selection of names: all, none, some by name, or all but some."""
CollectionFilter = Filter
"""A filter of collections."""
PRNGSequenceFilter = Filter
"""A filter of random streams."""


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """A normalized filter: the names in `names`, or all but those if `inverted`."""

    names: frozenset[str]
    inverted: bool = False

    @classmethod
    def of(cls, filter_like: Filter | Selection) -> Selection:
        """Normalize a filter; raise `InvalidFilterError` for anything else."""
        if isinstance(filter_like, Selection):
            return filter_like
        if isinstance(filter_like, bool):
            return ALL if filter_like else NONE
        if isinstance(filter_like, str):
            return cls(frozenset((filter_like,)))
        if isinstance(filter_like, DenyList):
            return ~cls.of(filter_like.deny)
        if isinstance(filter_like, Collection):
            return cls(frozenset(filter_like))
        raise errors.InvalidFilterError(filter_like)

    def __contains__(self, name: object) -> bool:
        return (name in self.names) is not self.inverted

    def __bool__(self) -> bool:
        return self.inverted or bool(self.names)

    def __and__(self, other: Selection) -> Selection:
        if not self.inverted:
            return Selection(frozenset(filter(other.__contains__, self.names)))
        if not other.inverted:
            return other & self
        return Selection(self.names | other.names, True)

    def __invert__(self) -> Selection:
        return Selection(self.names, not self.inverted)

    def __or__(self, other: Selection) -> Selection:
        return ~(~self & ~other)

    def __sub__(self, other: Selection) -> Selection:
        return self & ~other

    def public(self) -> Filter:
        """Return the same filter as users write it."""
        return DenyList(set(self.names)) if self.inverted else set(self.names)


ALL = Selection(frozenset(), True)
NONE = Selection(frozenset())


def in_filter(filter_like: Filter, col: str) -> bool:
    """Return whether the filter selects collection `col`."""
    return col in Selection.of(filter_like)


def is_filter_empty(filter_like: Filter) -> bool:
    """Return whether the filter selects no collections.

    A `DenyList` selects some unless it denies all.

    Example:
        >>> is_filter_empty([]), is_filter_empty(DenyList("params"))
        (True, False)
    """
    return not Selection.of(filter_like)


def filter_to_set(x: Filter) -> set[str]:
    """Return the names of a filter; `True` and deny lists have none."""
    selection = Selection.of(x)
    if selection.inverted:
        raise errors.InvalidFilterError(x)
    return set(selection.names)


def union_filters(a: Filter, b: Filter) -> Filter:
    """Return the filter that selects what `a` or `b` selects."""
    if a is True or b is True:
        return True
    return (Selection.of(a) | Selection.of(b)).public()


def intersect_filters(a: Filter, b: Filter) -> Filter:
    """Return the filter that selects what both `a` and `b` select."""
    if a is True:
        return b
    if b is True:
        return a
    return (Selection.of(a) & Selection.of(b)).public()


def subtract_filters(a: Filter, b: Filter) -> Filter:
    """Return the filter that selects what `a` selects and `b` does not."""
    if b is True:
        return False
    if a is True:
        return DenyList(b)
    return (Selection.of(a) - Selection.of(b)).public()


def group_collections(
    xs: Mapping[str, T], col_filters: Sequence[Filter | Selection]
) -> tuple[dict[str, T], ...]:
    """Sort collections into one group per filter; the first matching filter wins.

    Example:
        >>> group_collections({"params": {}, "cache": {}}, ["params", True])
        ({'params': {}}, {'cache': {}})
    """
    groups: tuple[dict[str, T], ...] = tuple({} for _ in col_filters)
    selections = tuple(map(Selection.of, col_filters))
    for col, tree in xs.items():
        for group, selection in zip(groups, selections, strict=True):
            if col in selection:
                group[col] = tree
                break
    return groups
