"""`Tree`: an object that is a pytree, with fields that are nodes or static."""

from __future__ import annotations

import abc
import inspect
import operator
from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import Any, Self

import jax

from linsey import serialization
from linsey.treex.treeo import contexts, flatten
from linsey.treex.treeo.facts import ClassFacts, own_fields
from linsey.treex.treeo.fields import FieldMetadata
from linsey.treex.treeo.records import CURRENT
from linsey.treex.treeo.sentinels import OpaquePredicate
from linsey.treex.treeo.static import Static
from linsey.treex.treeo.storage import SharedStatic, set_static

BOOKKEEPING = (
    "_field_metadata",
    "_subtrees",
    "_factory_fields",
    "_default_field_values",
)
_BOOKKEEPING_METADATA = {
    name: FieldMetadata(False, NoneType, False) for name in BOOKKEEPING
}


class TreeMeta(abc.ABCMeta):
    """Builds trees: defaults, constructor, discovery of fields, compact record."""

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict) -> None:
        super().__init__(name, bases, namespace)
        cls._own_fields = own_fields(cls)
        flatten.register(cls, lambda obj: discover(obj))
        serialization.register_serialization_state(
            cls,
            lambda obj: _to_state(obj),
            lambda obj, state: _from_state(obj, state),
        )

    @property
    def __signature__(cls) -> inspect.Signature:
        """The parameters of the constructor, as they are now."""
        found = inspect.signature(cls.__init__)
        return found.replace(parameters=list(found.parameters.values())[1:])

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Builds an instance, or returns that of the first run of a compact method."""
        record = CURRENT.get()
        if record is not None and record.replays:
            return record.next_subtree(cls)
        new: Any = cls.__new__
        obj = new(cls, *args, **kwargs)
        facts = facts_of(cls)
        set_static(obj, facts.start)
        for name, make in facts.factories.items():
            obj.__dict__[name] = make()
        obj.__dict__.update(facts.defaults)
        token = CURRENT.set(None)
        try:
            cls.run_constructor(obj, args, kwargs)
        finally:
            CURRENT.reset(token)
        discover(obj)
        if record is not None:
            cls.join(obj)
            record.subtrees.append(obj)
        return obj

    def run_constructor(cls, obj: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Runs `__init__`."""
        obj.__init__(*args, **kwargs)

    def join(cls, obj: Any) -> None:
        """Prepares an instance that was built in a compact method."""


class Tree(SharedStatic, metaclass=TreeMeta):
    """An object that JAX treats as a pytree.

    Fields declared `node`, and attributes that are trees, are its children, by name in
    alphabetical order; all other attributes belong to the structure. Attributes can be
    set at any time.

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
        """What is known of each field; attributes set since are not in it yet."""
        return MappingProxyType(
            {**_BOOKKEEPING_METADATA, **self._static_part.layout.metadata}
        )

    def check_metadata_updates(self) -> None:
        """Looks for attributes that are new, as every flattening does."""
        discover(self)

    def update_field_metadata(
        self,
        field: str,
        node: bool | None = None,
        kind: type | None = None,
        opaque: bool | OpaquePredicate | None = None,
    ) -> Self:
        """A copy in which a field is treated otherwise.

        Args:
            field: its name.
            node: whether its value is part of the leaves.
            kind: class that says what it is for.
            opaque: whether its value is hidden from comparison.

        Raises:
            KeyError: there is no such field.
        """
        entry = self.field_metadata[field].update(node, kind, opaque)
        with contexts.flatten_mode("all_fields"):
            copy = jax.tree.map(lambda leaf: leaf, self)
        set_metadata(copy, {field: entry})
        return copy

    def tree_flatten(self) -> tuple[tuple[dict[str, Any]], dict[str, Any]]:
        """The node fields as one dictionary, and the other attributes."""
        static = discover(self)
        names, children, _ = flatten.take_apart(self, static)
        nodes = dict(zip(names, children, strict=True))
        rest = {k: v for k, v in self.__dict__.items() if k not in nodes}
        return (nodes,), rest

    @classmethod
    def tree_unflatten(cls, static_fields: dict[str, Any], children: Any) -> Self:
        """Puts together what `tree_flatten` took apart."""
        obj = object.__new__(cls)
        set_static(obj, facts_of(cls).start)
        obj.__dict__.update(static_fields)
        obj.__dict__.update(children[0])
        discover(obj)
        return obj

    def __getstate__(self) -> dict[str, Any]:
        # Of guesses only nodes travel: the others are guessed again.
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


def _to_state(tree: Any) -> dict[str, Any]:
    """The node fields as a state dict."""
    return {
        name: serialization.to_state_dict(getattr(tree, name))
        for name in discover(tree).layout.nodes
    }


def _from_state(tree: Any, state: Any) -> Any:
    """A tree like the given one, with the node fields of a state dict."""
    static = discover(tree)
    nodes = {name: getattr(tree, name) for name in static.layout.nodes}
    restored = serialization.restore_dict(nodes, state)
    return static.layout.unflatten(static, tuple(restored.values()))


def facts_of(cls: Any) -> ClassFacts:
    """What is known of a class, computed at its first use, when names are known."""
    facts = cls.__dict__.get("_facts")
    if facts is None:
        facts = ClassFacts(cls, Tree)
        type.__setattr__(cls, "_facts", facts)
    return facts


def discover(obj: Any) -> Static:
    """Brings what is known of an instance up to date and returns its static part.

    An attribute that nobody declared is a node if it is a tree. One that was taken for
    static, because it was something else when it was seen first, becomes a node as
    soon as it is a tree; what was declared stays what it was declared to be.
    """
    attributes = obj.__dict__
    static = obj._static_part
    layout = static.layout
    known, news = layout.metadata, {}
    for name, value in attributes.items():
        entry = known.get(name)
        if entry is None:
            news[name] = FieldMetadata(isinstance(value, Tree), type(value), False)
        elif not entry.node and isinstance(value, Tree) and name not in layout.declared:
            annotated = name in facts_of(type(obj)).metadata
            news[name] = entry.update(
                node=True, kind=entry.kind if annotated else type(value)
            )
    if news:
        known = {**known, **news}
    layout = facts_of(type(obj)).layout(
        known, tuple(sorted(attributes)), layout.declared
    )
    values = tuple([attributes[name] for name in layout.statics])
    if layout is not static.layout or any(map(operator.is_not, values, static.values)):
        static = Static(layout, values)
        set_static(obj, static)
    return static


def set_metadata(obj: Any, entries: dict[str, FieldMetadata]) -> None:
    """Declares fields of one instance."""
    layout = obj._static_part.layout
    declared = facts_of(type(obj)).layout(
        {**layout.metadata, **entries}, (), layout.declared.union(entries)
    )
    set_static(obj, flatten.unseen(declared))
    discover(obj)


def take_state(obj: Any, other: Any) -> None:
    """Gives an instance all attributes of another one."""
    obj.__dict__.update(other.__dict__)
    if isinstance(obj, Tree):
        set_static(obj, discover(other))
        discover(obj)
