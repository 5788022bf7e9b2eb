"""What is known of a class of trees before there is an instance."""

from __future__ import annotations

import dataclasses
from types import NoneType
from typing import Any

from linsey.treex.treeo import flatten
from linsey.treex.treeo.annotations import (
    is_class_variable,
    mentions,
    own_annotations,
    resolve,
)
from linsey.treex.treeo.fields import FieldMetadata
from linsey.treex.treeo.static import Layout, Static


class ClassFacts:
    """Fields that a class declares or annotates, and the layouts of its instances.

    Attributes:
        metadata: of each declared or annotated field.
        declared: names of fields that were declared by `field`, `node` or `static`.
        defaults: values of fields that have one for all instances.
        factories: functions that make the value of a field for each instance.
        start: the static part of an instance without attributes.
    """

    __slots__ = ("cls", "declared", "defaults", "factories", "layouts", "metadata",
                 "start")  # fmt: skip

    def __init__(self, cls: type, tree: type) -> None:
        self.cls = cls
        self.metadata: dict[str, FieldMetadata] = {}
        self.defaults: dict[str, Any] = {}
        self.factories: dict[str, Any] = {}
        declared: dict[str, dataclasses.Field] = {}
        for base in reversed(cls.__mro__):
            for name, annotation in own_annotations(base).items():
                if not issubclass(base, tree):
                    continue
                annotation = resolve(base, annotation)
                if not is_class_variable(annotation):
                    node = mentions(annotation, tree)
                    self.metadata[name] = FieldMetadata(node, NoneType, False)
            declared.update(base.__dict__.get("_own_fields", {}))
        for name, made in declared.items():
            self.metadata[name] = FieldMetadata(**made.metadata)
            if made.default_factory is not dataclasses.MISSING:
                self.factories[name] = made.default_factory
            elif made.default is not dataclasses.MISSING:
                self.defaults[name] = made.default
        self.declared = frozenset(declared)
        self.layouts: dict[Any, Layout] = {}
        self.start: Static = flatten.unseen(
            self.layout(self.metadata, (), self.declared)
        )

    def layout(
        self,
        metadata: dict[str, FieldMetadata],
        names: tuple[str, ...],
        declared: frozenset[str],
    ) -> Layout:
        """The one layout of instances with these attributes.

        Args:
            metadata: of each field.
            names: of the attributes that are set, sorted.
            declared: fields whose metadata is not a guess.
        """
        key = (names, frozenset(metadata.items()), declared)
        found = self.layouts.get(key)
        if found is None:
            found = Layout(self.cls, dict(metadata), names, declared)
            flatten.prepare(found, self.cls._examine)  # type: ignore[attr-defined]
            found = self.layouts.setdefault(key, found)
        return found


def own_fields(cls: type) -> dict[str, dataclasses.Field]:
    """The fields that a class body declares; `dataclass` will take them away."""
    return {
        name: value
        for name, value in vars(cls).items()
        if isinstance(value, dataclasses.Field) and "node" in value.metadata
    }
