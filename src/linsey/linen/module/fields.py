"""Modules as dataclasses: annotated attributes become constructor arguments."""

from __future__ import annotations

import dataclasses
from typing import Any

from linsey import errors


def make_dataclass(cls: type[Any], base: type[Any], kw_only: bool) -> None:
    """Makes a class a dataclass and notes facts about its fields.

    Args:
        cls: the new class.
        base: the class of all modules, whose hash is kept.
        kw_only: its fields are keyword arguments only.

    Raises:
        ReservedModuleAttributeError: it annotates `parent`.
    """
    annotations = cls.__dict__.get("__annotations__", {})
    if "parent" in annotations:
        reserved = {k: v for k, v in annotations.items() if k in ("parent", "name")}
        raise errors.ReservedModuleAttributeError(reserved)
    if "name" in annotations:
        # Many programs repeat the field `name`. It stays what it is in every module;
        # a default has no effect, or two instances would have one name.
        del annotations["name"]
        if "name" in cls.__dict__:
            del cls.name
    overridden = any(name in cls.__dict__ for name in cls.__dataclass_fields__)
    if not annotations and len(cls.__bases__) == 1 and not overridden:
        return  # the constructor and the facts of the base are right for it
    if cls.__dict__.get("__hash__") is None:
        # `dataclass` with `eq` would remove the inherited hash.
        cls.__hash__ = base.__hash__  # type: ignore[method-assign]
    dataclasses.dataclass(repr=False, kw_only=kw_only)(cls)
    fields = dataclasses.fields(cls)
    cls._init_fields = tuple(
        f.name for f in fields if f.init and f.name not in ("parent", "name")
    )
    cls._hash_fields = tuple(
        f.name for f in fields if f.compare and f.hash is not False
    )
