"""The static part of a tree: what JAX keeps in the structure and compares.

A `Layout` is the shape of an instance: its class, the names it has and what is known of
each. Layouts are interned: instances alike share one. A `Static` is a layout with the
values of the static fields. Each instance keeps the last one that it was flattened to,
and gives it out again as long as its static attributes are the very same objects: then
JAX compares structures by identity.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from linsey.treex.treeo.fields import FieldMetadata
from linsey.treex.treeo.sentinels import ArrayLike, Opaque


class Layout:
    """What instances of a class that have the same attributes have in common.

    Attributes:
        cls: the class.
        metadata: what is known of each declared or discovered field.
        declared: names of the fields of which it is not a guess.
        nodes: names of the node fields that are set, sorted.
        statics: names of the other attributes.
        children: a function from attributes to those that are nodes.
        flatten: the generated function `(instance, its attributes, its last static
            part) -> (children, static)`.
        unflatten: the generated function `(static, children) -> instance`.
    """

    __slots__ = (
        "children",
        "cls",
        "declared",
        "flatten",
        "metadata",
        "nodes",
        "opaque",
        "signature",
        "statics",
        "unflatten",
    )

    def __init__(
        self,
        cls: type,
        metadata: dict[str, FieldMetadata],
        names: tuple[str, ...],
        declared: frozenset[str],
    ) -> None:
        self.cls = cls
        self.metadata = metadata
        self.declared = declared
        self.nodes = tuple(sorted(n for n in names if metadata[n].node))
        self.statics = tuple(n for n in names if not metadata[n].node)
        self.opaque = tuple(metadata[n].opaque for n in self.statics)
        # The kind of a static attribute that nobody declared is the type that it had
        # when it was first seen: no part of what the instance is.
        self.signature = {
            name: (entry.node, entry.kind if _matters(name, entry, declared) else None)
            for name, entry in metadata.items()
        }
        self.children: Any = None
        self.flatten: Any = None
        self.unflatten: Any = None

    def matches(self, other: Layout) -> bool:
        """Whether instances of both have the same structure, but for static values."""
        return self is other or (
            self.cls is other.cls
            and self.nodes == other.nodes
            and set(self.statics) == set(other.statics)
            and self.signature == other.signature
        )


def _matters(name: str, entry: FieldMetadata, declared: frozenset[str]) -> bool:
    return entry.node or name in declared


class Static:
    """A layout with the values of its static fields, in the order of `statics`.

    `children` and `build` are those of the layout, at hand without a detour.
    """

    __slots__ = ("attributes", "build", "children", "layout", "values")

    def __init__(self, layout: Layout, values: tuple[Any, ...]) -> None:
        self.layout = layout
        self.children = layout.children
        self.build = layout.unflatten
        self.values = values
        self.attributes = dict(zip(layout.statics, values, strict=True))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Static):
            return NotImplemented
        if not self.layout.matches(other.layout):
            return False
        attributes = other.attributes
        return all(
            same_value(value, attributes[name], opaque)
            for name, value, opaque in zip(
                self.layout.statics, self.values, self.layout.opaque, strict=True
            )
        )

    def __hash__(self) -> int:
        return hash((self.layout.cls, self.layout.nodes))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={v!r}" for name, v in self.attributes.items())
        return f"{self.layout.cls.__name__}({values})"


class Whole:
    """The structure of a tree all of whose attributes are children."""

    __slots__ = ("layout", "names")

    build = None

    def __init__(self, layout: Layout, names: tuple[str, ...]) -> None:
        self.layout = layout
        self.names = names

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Whole)
            and self.layout.cls is other.layout.cls
            and self.names == other.names
        )

    def __hash__(self) -> int:
        return hash((self.layout.cls, self.names))

    def __repr__(self) -> str:
        return f"{self.layout.cls.__name__}({', '.join(self.names)})"


class Closed:
    """The structure of a tree none of whose attributes is a child."""

    __slots__ = ("attributes", "layout")

    build = None

    def __init__(self, layout: Layout, attributes: dict[str, Any]) -> None:
        self.layout = layout
        self.attributes = attributes

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Closed)
            and self.layout.matches(other.layout)
            and all(
                same_value(value, other.attributes[name])
                for name, value in self.attributes.items()
            )
        )

    def __hash__(self) -> int:
        return hash(self.layout.cls)


def same_value(a: Any, b: Any, opaque: Any = False) -> bool:
    """Whether two static values are equal; it never raises.

    Args:
        a: a value.
        b: another.
        opaque: whether only type, shape and dtype count, or the predicate that decides.
    """
    if a is b:
        return True
    if opaque is not False:
        predicate = None if opaque is True else opaque
        return Opaque(a, predicate) == Opaque(b, predicate)
    try:
        if isinstance(a, ArrayLike) and isinstance(b, ArrayLike):
            return (
                a.shape == b.shape
                and a.dtype == b.dtype
                and bool(np.all(np.asarray(a) == np.asarray(b)))
            )
        if type(a) is type(b):
            if isinstance(a, dict):
                return a.keys() == b.keys() and all(same_value(a[k], b[k]) for k in a)
            if isinstance(a, list | tuple):
                return len(a) == len(b) and all(map(same_value, a, b))
        return bool(a == b)
    except Exception:
        return False  # arrays inside of objects that do not compare, leaked tracers
