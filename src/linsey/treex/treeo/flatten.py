"""Flattening and unflattening of trees, as JAX requires.

Contexts set which fields are children, and whether leaves are named. Each belongs to
the thread and the asynchronous task that entered it.

A lean tree (see `static`) is flattened without looking at its static attributes. If the
static attributes of a full tree are the same objects as the last time, comparing their
identities is all that is needed. In all other cases, flattening also looks for new
attributes and at the contexts.
"""

from __future__ import annotations

import dataclasses
import enum
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import NoneType
from typing import Any, TypeVar

import jax
from jax.tree_util import GetAttrKey

from linsey.errors.base import OptionError
from linsey.errors.treex import StaticTracerError
from linsey.treex.treeo.fields import FieldInfo, FieldMetadata, annotated_fields
from linsey.treex.treeo.static import (
    LEAN,
    Forced,
    Layout,
    Static,
    Storage,
    get_dict,
    set_static,
    unseen,
)

__all__ = ["FlattenMode", "add_field_info", "flatten_mode"]

T = TypeVar("T")
Structure = Static | Forced

# --- contexts ------------------------------------------------------------------------


class FlattenMode(enum.Enum):
    """The modes that determine which fields are children of a tree.

    `normal`: the node fields. `all_fields`: every attribute. `no_fields`: none.
    """

    no_fields = 1
    normal = 2
    all_fields = 3


class Entered:
    """The number of these contexts that are entered, in all threads together.

    While it is zero, flattening does not have to look at any of them.
    """

    def __init__(self) -> None:
        self.number = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        """Count contexts that are entered or, for a negative number, exited."""
        with self._lock:
            self.number += number


MODE: ContextVar[FlattenMode | None] = ContextVar("flatten_mode", default=None)
NAMED_LEAVES: ContextVar[bool] = ContextVar("add_field_info", default=False)
ENTERED = Entered()


@contextmanager
def _entered(variable: ContextVar[T], value: T) -> Iterator[None]:
    token = variable.set(value)
    ENTERED.add(1)
    try:
        yield
    finally:
        ENTERED.add(-1)
        variable.reset(token)


@contextmanager
def flatten_mode(mode: FlattenMode | str | None) -> Iterator[None]:
    """Set which fields are children; `None` keeps the current mode.

    Example:
        >>> import jax, linsey.treex as tx
        >>> class Line(tx.Tree):
        ...     slope: float = tx.node(2.0)
        ...     power: int = tx.static(3)
        >>> with tx.flatten_mode("all_fields"):
        ...     jax.tree.leaves(Line())
        [3, 2.0]
    """
    if mode is None:
        yield
        return
    if not isinstance(mode, FlattenMode):
        if mode not in FlattenMode.__members__:
            raise OptionError(
                f"Unknown flatten mode {mode!r}.",
                "A mode says which fields are children of a tree.",
                f"Write one of {', '.join(map(repr, FlattenMode.__members__))}.",
            )
        mode = FlattenMode[mode]
    with _entered(MODE, mode):
        yield


def add_field_info() -> AbstractContextManager[None]:
    """Make the leaves of trees `FieldInfo`s inside a `with` block.

    Example:
        >>> import jax, linsey.treex as tx
        >>> class Line(tx.Tree):
        ...     slope: float = tx.Parameter.node(2.0)
        >>> with tx.add_field_info():
        ...     [leaf] = jax.tree.leaves(Line())
        >>> leaf.name, leaf.value, leaf.kind.__name__
        ('slope', 2.0, 'Parameter')
    """
    return _entered(NAMED_LEAVES, True)


def bare_leaves() -> AbstractContextManager[None]:
    """Make leaves plain values again inside `add_field_info`."""
    return _entered(NAMED_LEAVES, False)


def current_mode() -> FlattenMode:
    """Return the current mode. Defaults to `normal`."""
    return MODE.get() or FlattenMode.normal


# --- facts about classes and instances -----------------------------------------------


class ClassFacts:
    """The declared or annotated fields of a class, and the layouts of its instances.

    Attributes:
        metadata: the metadata of each declared or annotated field.
        declared: names of fields that were declared with `field`, `node` or `static`.
        defaults: values of fields whose default is shared by all instances.
        factories: functions that return the value of a field for each instance.
        start: the static part of an instance without attributes.
    """

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.metadata: dict[str, FieldMetadata] = {}
        self.defaults: dict[str, object] = {}
        self.factories: dict[str, Callable[[], object]] = {}
        declared: dict[str, dataclasses.Field] = {}
        for base in reversed(cls.__mro__):
            if issubclass(base, Storage):
                for name, mentions_tree in annotated_fields(base, Storage).items():
                    self.metadata[name] = FieldMetadata(mentions_tree, NoneType)
                declared.update(base.__dict__.get("_own_fields", {}))
        for name, made in declared.items():
            self.metadata[name] = FieldMetadata(**made.metadata)
            if made.default_factory is not dataclasses.MISSING:
                self.factories[name] = made.default_factory
            elif made.default is not dataclasses.MISSING:
                self.defaults[name] = made.default
        self.declared = frozenset(declared)
        # One layout for each set of attributes that has been seen in an instance.
        self._layouts: dict[object, Layout] = {}
        self.start = unseen(self.layout(self.metadata, (), self.declared))

    def layout(
        self,
        metadata: Mapping[str, FieldMetadata],
        names: tuple[str, ...],
        declared: frozenset[str],
    ) -> Layout:
        """Return the unique layout of instances with these attributes.

        Args:
            metadata: the metadata of each field.
            names: the sorted names of the attributes that are set.
            declared: names of fields whose metadata is declared and not inferred.
        """
        key = (names, frozenset(metadata.items()), declared)
        found = self._layouts.get(key)
        if found is None:
            made = Layout(self.cls, dict(metadata), names, declared)
            found = self._layouts.setdefault(key, made)
        return found


def facts_of(cls: type) -> ClassFacts:
    """Return the facts about a class, computed late so that names can be resolved."""
    facts = cls.__dict__.get("_facts")
    if facts is None:
        facts = ClassFacts(cls)
        type.__setattr__(cls, "_facts", facts)
    return facts


def discover(obj: Storage) -> Static:
    """Update the facts about an instance and return its static part.

    An undeclared attribute is a node if it is a tree. If it was something else when it
    was first seen, and so was taken for static, it becomes a node as soon as it is a
    tree. Declared attributes stay as declared.
    """
    attributes = obj.__dict__
    static = obj._static_part
    layout = static.layout
    facts = facts_of(type(obj))
    known, declared, news = layout.metadata, layout.declared, {}
    for name, value in attributes.items():
        entry = known.get(name)
        if entry is None:
            news[name] = FieldMetadata(isinstance(value, Storage), type(value))
        elif not entry.node and isinstance(value, Storage) and name not in declared:
            kind = entry.kind if name in facts.metadata else type(value)
            news[name] = entry.update(node=True, kind=kind)
    if news:
        known = {**known, **news}
    layout = facts.layout(known, tuple(sorted(attributes)), declared)
    values = layout.static_values(attributes)
    if layout is not static.layout or any(map(operator.is_not, values, static.values)):
        static = Static(layout, values)
        set_static(obj, static)
    return static


def set_metadata(obj: Storage, entries: Mapping[str, FieldMetadata]) -> None:
    """Declare fields of one instance."""
    layout = obj._static_part.layout
    declared = facts_of(type(obj)).layout(
        {**layout.metadata, **entries}, (), layout.declared.union(entries)
    )
    set_static(obj, unseen(declared))
    discover(obj)


def take_state(obj: object, other: object) -> None:
    """Copy all attributes of another instance to an instance."""
    obj.__dict__.update(other.__dict__)
    if isinstance(obj, Storage) and isinstance(other, Storage):
        set_static(obj, discover(other))
        discover(obj)


# --- functions that JAX calls --------------------------------------------------------


def register(cls: type) -> None:
    """Register a class as a pytree with JAX."""
    jax.tree_util.register_pytree_with_keys(
        cls, _flatten_with_keys, _unflatten, _flatten
    )


def _flatten(obj: Storage) -> tuple[tuple[Any, ...], Structure]:
    if not ENTERED.number:
        attributes = get_dict(obj)
        static = attributes.get(LEAN)
        if static is not None:
            return static.children(attributes), static
        static = obj._static_part
        children = static.children_of(attributes)
        if children is not None:
            return children, static
    _, children, structure = take_apart(obj)
    return children, structure


def _flatten_with_keys(obj: Storage) -> tuple[list[tuple[Any, Any]], Structure]:
    names, children, structure = take_apart(obj)
    keys = [GetAttrKey(name) for name in names]
    return list(zip(keys, children, strict=True)), structure


def _unflatten(structure: Structure, children: Iterable[object]) -> Storage:
    if ENTERED.number and NAMED_LEAVES.get():
        children = [_unnamed(child) for child in children]
    return structure.build(structure, children)


def take_apart(obj: Storage) -> tuple[tuple[str, ...], tuple[Any, ...], Structure]:
    """Return the names, children and structure of an instance, under the contexts.

    Raises:
        StaticTracerError: a static attribute holds a traced value.
    """
    static = discover(obj)
    layout, attributes = static.layout, obj.__dict__
    mode = current_mode()
    structure: Structure
    if mode is FlattenMode.normal:
        for name, value in static.attributes.items():
            if isinstance(value, jax.core.Tracer):
                raise StaticTracerError(obj, name, value)
        names, structure = layout.nodes, static
    elif mode is FlattenMode.all_fields:
        names = tuple(sorted(attributes))
        structure = Forced(layout, names, {})
    else:
        names, structure = (), Forced(layout, (), dict(attributes))
    children = tuple([attributes[name] for name in names])
    if NAMED_LEAVES.get():
        children = tuple(
            _named(obj, name, child, layout.metadata[name].kind)
            for name, child in zip(names, children, strict=True)
        )
    return names, children, structure


def _is_tree(value: object) -> bool:
    return isinstance(value, Storage)


def _named(obj: Storage, name: str, child: object, kind: type) -> object:
    """Name the leaves of a child; trees in it name their own leaves."""

    def name_leaf(leaf: object) -> object:
        return leaf if _is_tree(leaf) else FieldInfo(name, leaf, kind, obj)

    return jax.tree.map(name_leaf, child, is_leaf=_is_tree)


def _unnamed(child: object) -> object:
    if type(child) is FieldInfo:
        return child.value
    if child is None or isinstance(child, str | int | float | jax.Array):
        return child

    def bare(leaf: object) -> object:
        return leaf.value if type(leaf) is FieldInfo else leaf

    return jax.tree.map(bare, child, is_leaf=_is_tree)
