"""What a field of a tree is: node or static, of which kind, hidden or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import NoneType
from typing import Any, NamedTuple, NoReturn

from linsey.treex.treeo.sentinels import OpaquePredicate


class FieldMetadata(NamedTuple):
    """How a tree treats one of its fields.

    Attributes:
        node: whether the value is part of the leaves; otherwise it is static.
        kind: class that says what the value is for, `NoneType` for none.
        opaque: whether a static value is hidden from comparison, or the predicate that
            compares it.

    Example:
        >>> FieldMetadata(True, NoneType, False).update(node=False).node
        False
    """

    node: bool
    kind: type
    opaque: bool | OpaquePredicate = False

    def update(
        self,
        node: bool | None = None,
        kind: type | None = None,
        opaque: bool | OpaquePredicate | None = None,
    ) -> FieldMetadata:
        """A copy with other values; none keeps what there is."""
        return FieldMetadata(
            self.node if node is None else node,
            self.kind if kind is None else kind,
            self.opaque if opaque is None else opaque,
        )


class FieldInfo:
    """A leaf with where it was found.

    Attributes:
        name: the field that owns it; none outside of trees.
        value: the leaf.
        kind: the kind of the field.
        module: the tree that owns the field.
    """

    __slots__ = ("kind", "module", "name", "value")

    def __init__(self, name: str | None, value: Any, kind: type, module: Any) -> None:
        self.name = name
        self.value = value
        self.kind = kind
        self.module = module

    def __repr__(self) -> str:
        owner = None if self.module is None else type(self.module).__name__
        return (
            f"FieldInfo(name={self.name!r}, value={self.value!r}, "
            f"kind={self.kind.__name__}, module={owner})"
        )


class TreeField(dataclasses.Field):
    """A declared field. Read from an instance that never set it, it says so."""

    __slots__ = ()

    def __get__(self, instance: Any, owner: type) -> TreeField | NoReturn:
        if instance is None:
            return self  # `dataclass` looks for it on the class
        raise AttributeError(
            f"`{type(instance).__name__}.{self.name}` was declared and never set. "
            f"Set it in `__init__`, `self.{self.name} = ...`, or declare a default."
        )


def field(
    default: Any = dataclasses.MISSING,
    *,
    node: bool,
    kind: type = NoneType,
    default_factory: Any = None,
    init: bool = True,
    repr: bool = True,
    hash: bool | None = None,
    compare: bool = True,
    opaque: bool | OpaquePredicate = False,
) -> Any:
    """Declares a field of a tree, in a plain class or in a dataclass.

    Args:
        default: value of every instance that sets no other.
        node: whether the value is part of the leaves.
        kind: class that says what the value is for.
        default_factory: makes the value for each instance, in place of `default`.
        init: see `dataclasses.field`, as the following ones.
        repr: whether a dataclass shows it.
        hash: whether a dataclass hashes it.
        compare: whether a dataclass compares it.
        opaque: whether a static value is hidden from comparison, or the predicate
            `(Opaque, other) -> bool` that compares it.

    Returns:
        A `dataclasses.Field`.

    Raises:
        ValueError: both `default` and `default_factory` are given.

    Example:
        >>> import jax, linsey.treex as tx
        >>> class Line(tx.Tree):
        ...     slope: float = tx.field(2.0, node=True)
        ...     name: str = tx.field("line", node=False)
        >>> jax.tree.leaves(Line())
        [2.0]
    """
    if default_factory is None:
        default_factory = dataclasses.MISSING
    made = dataclasses.field(
        default=default,
        default_factory=default_factory,
        init=init,
        repr=repr,
        hash=hash,
        compare=compare,
        metadata={"node": node, "kind": kind, "opaque": opaque},
    )
    # `dataclasses.field` has no way to make a subclass, and its constructor differs
    # between versions of Python.
    object.__setattr__(made, "__class__", TreeField)
    return made


def node(
    default: Any = dataclasses.MISSING,
    *,
    kind: type = NoneType,
    default_factory: Callable[[], Any] | None = None,
    init: bool = True,
    repr: bool = True,
    hash: bool | None = None,
    compare: bool = True,
    opaque: bool | OpaquePredicate = False,
) -> Any:
    """Declares a field whose value is part of the leaves, see `field`."""
    return field(
        default,
        node=True,
        kind=kind,
        default_factory=default_factory,
        init=init,
        repr=repr,
        hash=hash,
        compare=compare,
        opaque=opaque,
    )


def static(
    default: Any = dataclasses.MISSING,
    *,
    kind: type = NoneType,
    default_factory: Callable[[], Any] | None = None,
    init: bool = True,
    repr: bool = True,
    hash: bool | None = None,
    compare: bool = True,
    opaque: bool | OpaquePredicate = False,
) -> Any:
    """Declares a field whose value is part of the structure, see `field`."""
    return field(
        default,
        node=False,
        kind=kind,
        default_factory=default_factory,
        init=init,
        repr=repr,
        hash=hash,
        compare=compare,
        opaque=opaque,
    )


class KindMixin:
    """Gives a class that names a kind the functions that declare fields of it.

    Example:
        >>> import linsey.treex as tx
        >>> class Weight(tx.KindMixin): ...
        >>> class Line(tx.Tree):
        ...     slope: float = Weight.node(2.0)
        >>> tx.filter(Line(), Weight).slope
        2.0
    """

    @classmethod
    def field(
        cls,
        default: Any = dataclasses.MISSING,
        *,
        node: bool,
        default_factory: Any = dataclasses.MISSING,
        init: bool = True,
        repr: bool = True,
        hash: bool | None = None,
        compare: bool = True,
        opaque: bool | OpaquePredicate = False,
    ) -> Any:
        """Declares a field of this kind, see `field`."""
        return field(
            default,
            node=node,
            kind=cls,
            default_factory=default_factory,
            init=init,
            repr=repr,
            hash=hash,
            compare=compare,
            opaque=opaque,
        )

    @classmethod
    def node(
        cls,
        default: Any = dataclasses.MISSING,
        *,
        default_factory: Any = dataclasses.MISSING,
        init: bool = True,
        repr: bool = True,
        hash: bool | None = None,
        compare: bool = True,
        opaque: bool | OpaquePredicate = False,
    ) -> Any:
        """Declares a field of this kind whose value is part of the leaves."""
        return cls.field(
            default,
            node=True,
            default_factory=default_factory,
            init=init,
            repr=repr,
            hash=hash,
            compare=compare,
            opaque=opaque,
        )

    @classmethod
    def static(
        cls,
        default: Any = dataclasses.MISSING,
        default_factory: Any = dataclasses.MISSING,
        init: bool = True,
        repr: bool = True,
        hash: bool | None = None,
        compare: bool = True,
        opaque: bool | OpaquePredicate = False,
    ) -> Any:
        """Declares a field of this kind whose value is part of the structure."""
        return cls.field(
            default,
            node=False,
            default_factory=default_factory,
            init=init,
            repr=repr,
            hash=hash,
            compare=compare,
            opaque=opaque,
        )
