"""Dataclasses with keyword-only fields, based on the standard library.

Flax had such a module before Python supported them; programs that import it find the
same names here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY
from typing import Any, TypeVar

__all__ = ["KW_ONLY", "dataclass", "field"]

T = TypeVar("T")


def field(
    *,
    metadata: Mapping[Any, Any] | None = None,
    kw_only: Any = dataclasses.MISSING,
    **kwargs: Any,
) -> Any:
    """Declare a field, see `dataclasses.field`.

    Args:
        metadata: a mapping to attach to the field.
        kw_only: whether the field is a keyword-only argument of the constructor.
        **kwargs: as for `dataclasses.field`.
    """
    return dataclasses.field(metadata=metadata, kw_only=kw_only, **kwargs)


def dataclass(
    cls: type[T] | None = None,
    extra_fields: Iterable[tuple[str, object, object]] | None = None,
    **kwargs: Any,
) -> Any:
    """Make a class a dataclass, see `dataclasses.dataclass`.

    Args:
        cls: the class. If `None`, the result is a decorator.
        extra_fields: further fields, each `(name, type, default value or field)`.
        **kwargs: as for `dataclasses.dataclass`.

    Example:
        >>> @dataclass
        ... class Parent:
        ...     name: str = field(default="", kw_only=True)
        >>> @dataclass
        ... class Child(Parent):
        ...     size: int
        >>> Child(3, name="a")
        Child(name='a', size=3)
    """
    if cls is None:
        return functools.partial(dataclass, extra_fields=extra_fields, **kwargs)
    cls.__annotations__ = dict(cls.__dict__.get("__annotations__", {}))
    for name, kind, default in extra_fields or ():
        cls.__annotations__[name] = kind
        setattr(cls, name, default)
    return dataclasses.dataclass(**kwargs)(cls)
