"""The operations on trees as methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from linsey.treex.treeo import operations, render
from linsey.treex.treeo.compact import Compact
from linsey.treex.treeo.contexts import FlattenMode


class Copy:
    """Adds `copy`."""

    def copy(self) -> Self:
        """See `linsey.treex.copy`."""
        return operations.copy(self)


class ToString:
    """Adds `to_string`."""

    def to_string(
        self,
        *,
        private_fields: bool = False,
        static_fields: bool = True,
        color: bool = False,
    ) -> str:
        """See `linsey.treex.to_string`."""
        return render.to_string(self, private_fields, static_fields, color)


class ToDict:
    """Adds `to_dict`."""

    def to_dict(
        self,
        *,
        private_fields: bool = False,
        static_fields: bool = True,
        type_info: bool = False,
        field_info: bool = False,
    ) -> Any:
        """See `linsey.treex.to_dict`."""
        return render.to_dict(
            self,
            private_fields=private_fields,
            static_fields=static_fields,
            type_info=type_info,
            field_info=field_info,
        )


class Repr:
    """Shows a tree as text, without private attributes."""

    def __repr__(self) -> str:
        return render.to_string(self)


class Filter:
    """Adds `filter`."""

    def filter(
        self,
        *filters: operations.Filter,
        inplace: bool = False,
        flatten_mode: FlattenMode | str | None = None,
    ) -> Self:
        """See `linsey.treex.filter`."""
        return operations.filter(
            self, *filters, inplace=inplace, flatten_mode=flatten_mode
        )


class Merge:
    """Adds `merge`."""

    def merge(
        self,
        other: Any,
        *rest: Any,
        inplace: bool = False,
        flatten_mode: FlattenMode | str | None = None,
        ignore_static: bool = False,
    ) -> Self:
        """See `linsey.treex.merge`."""
        return operations.merge(
            self,
            other,
            *rest,
            inplace=inplace,
            flatten_mode=flatten_mode,
            ignore_static=ignore_static,
        )


class Map:
    """Adds `map`."""

    def map(
        self,
        f: Callable[..., Any],
        *filters: operations.Filter,
        inplace: bool = False,
        flatten_mode: FlattenMode | str | None = None,
        is_leaf: Callable[[Any], bool] | None = None,
        field_info: bool = False,
    ) -> Self:
        """See `linsey.treex.map`."""
        return operations.map(
            f,
            self,
            *filters,
            inplace=inplace,
            flatten_mode=flatten_mode,
            is_leaf=is_leaf,
            field_info=field_info,
        )


class Apply:
    """Adds `apply`."""

    def apply(self, f: Callable[..., Any], *rest: Any, inplace: bool = False) -> Self:
        """See `linsey.treex.apply`."""
        return operations.apply(f, self, *rest, inplace=inplace)


class Extensions(Copy, ToString, ToDict, Repr, Filter, Merge, Map, Apply, Compact):
    """All operations as methods."""
