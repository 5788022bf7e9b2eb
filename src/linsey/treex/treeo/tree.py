"""`Tree`: an object that is a pytree, with fields that are nodes or static."""

from __future__ import annotations

import abc
import dataclasses
import inspect
from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import Any, Self

import jax

from linsey import serialization
from linsey.treex.treeo import flatten
from linsey.treex.treeo.compact import CURRENT
from linsey.treex.treeo.fields import FieldMetadata, declared_fields
from linsey.treex.treeo.flatten import discover, facts_of, set_metadata
from linsey.treex.treeo.sentinels import OpaquePredicate
from linsey.treex.treeo.static import Storage, set_static

__all__ = ["Tree", "TreeMeta"]

BOOKKEEPING = (
    "_field_metadata",
    "_subtrees",
    "_factory_fields",
    "_default_field_values",
)
_BOOKKEEPING_METADATA = dict.fromkeys(BOOKKEEPING, FieldMetadata(False, NoneType))


def _to_state(tree: Storage) -> dict[str, Any]:
    """Return the node fields as a state dict."""
    return {
        name: serialization.to_state_dict(getattr(tree, name))
        for name in discover(tree).layout.nodes
    }


def _from_state(tree: Storage, state: dict[str, Any]) -> Storage:
    """Return a tree like the given one, with node fields restored from a state dict."""
    static = discover(tree)
    nodes = {name: getattr(tree, name) for name in static.layout.nodes}
    restored = serialization.restore_dict(nodes, state)
    return static.build(static, tuple(restored.values()))


class TreeMeta(abc.ABCMeta):
    """Metaclass that builds trees: defaults, constructor, fields, compact record."""

    _own_fields: dict[str, dataclasses.Field]

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict) -> None:
        super().__init__(name, bases, namespace)
        cls._own_fields = declared_fields(cls)
        flatten.register(cls)
        serialization.register_serialization_state(cls, _to_state, _from_state)

    @property
    def __signature__(cls) -> inspect.Signature:
        """The current signature of the constructor."""
        found = inspect.signature(cls.__init__)
        return found.replace(parameters=list(found.parameters.values())[1:])

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Build an instance, or return the one from a compact method's first run."""
        record = CURRENT.get()
        if record is not None and record.replays:
            return record.next_subtree(cls)
        new: Any = cls.__new__
        obj = new(cls, *args, **kwargs)
        facts = facts_of(cls)
        set_static(obj, facts.start)
        token = CURRENT.set(None)
        try:
            for name, make in facts.factories.items():
                obj.__dict__[name] = make()
            obj.__dict__.update(facts.defaults)
            cls.run_constructor(obj, args, kwargs)
        finally:
            CURRENT.reset(token)
        discover(obj)
        if record is not None:
            cls.join(obj)
            record.subtrees.append(obj)
        return obj

    def run_constructor(cls, obj: Any, args: tuple, kwargs: dict) -> None:
        """Run `__init__`."""
        obj.__init__(*args, **kwargs)

    def join(cls, obj: Any) -> None:
        """Prepare an instance that was built in a compact method."""


class Tree(Storage, metaclass=TreeMeta):
    """An object that JAX treats as a pytree.

    Fields declared as `node` and attributes that are trees are its children, in
    alphabetical order of their names; all other attributes are part of the structure.
    Attributes can be set at any time.

    Example:
        >>> import jax, linsey.treex as tx
        >>> class Line(tx.Tree):
        ...     slope: float = tx.node()
        ...     def __init__(self, slope, name):
        ...         self.slope, self.name = slope, name
        >>> line = jax.tree.map(lambda x: 2 * x, Line(1.5, "rising"))
        >>> line.slope, line.name
        (3.0, 'rising')
    """

    __slots__ = ()

    @property
    def field_metadata(self) -> Mapping[str, FieldMetadata]:
        """The metadata of each field; attributes set since are not in it yet."""
        metadata = self._static_part.layout.metadata
        return MappingProxyType({**_BOOKKEEPING_METADATA, **metadata})

    def check_metadata_updates(self) -> None:
        """Look for new attributes, as every flattening does."""
        discover(self)

    def update_field_metadata(
        self,
        field: str,
        node: bool | None = None,
        kind: type | None = None,
        opaque: bool | OpaquePredicate | None = None,
    ) -> Self:
        """Return a copy in which a field has different metadata.

        Args:
            field: the name of the field.
            node: whether its value is part of the leaves.
            kind: class that tells the purpose of the value.
            opaque: whether its value is hidden from comparison.

        Raises:
            KeyError: there is no such field.
        """
        entry = self.field_metadata[field].update(node, kind, opaque)
        with flatten.flatten_mode("all_fields"):
            copy = jax.tree.map(lambda leaf: leaf, self)
        set_metadata(copy, {field: entry})
        return copy

    def tree_flatten(self) -> tuple[tuple[dict[str, Any]], dict[str, Any]]:
        """Return the node fields as one dictionary, and the other attributes."""
        names, children, _ = flatten.take_apart(self)
        nodes = dict(zip(names, children, strict=True))
        rest = {k: v for k, v in self.__dict__.items() if k not in nodes}
        return (nodes,), rest

    @classmethod
    def tree_unflatten(
        cls, static_fields: dict[str, Any], children: tuple[dict[str, Any]]
    ) -> Self:
        """Build a tree from the results of `tree_flatten`."""
        obj = object.__new__(cls)
        set_static(obj, facts_of(cls).start)
        obj.__dict__.update(static_fields)
        obj.__dict__.update(children[0])
        discover(obj)
        return obj

    def __getstate__(self) -> dict[str, Any]:
        # Inferred metadata is stored for nodes only; the rest is inferred again.
        layout = self._static_part.layout
        known = facts_of(type(self)).metadata
        changed = {
            name: entry
            for name, entry in layout.metadata.items()
            if known.get(name) != entry and (entry.node or name in layout.declared)
        }
        return {"attributes": dict(self.__dict__), "metadata": changed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        set_static(self, facts_of(type(self)).start)
        self.__dict__.update(state["attributes"])
        set_metadata(self, state["metadata"])
