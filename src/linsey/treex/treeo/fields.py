"""Declarations of the fields of a tree: node or static, and their kind."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable
from types import NoneType
from typing import Any, ClassVar, NamedTuple, TypedDict, TypeVar, Unpack

from linsey.treex.treeo.sentinels import OpaquePredicate

__all__ = ["FieldInfo", "FieldMetadata", "KindMixin", "field", "node", "static"]

F = TypeVar("F", bound=Callable[..., object])


class FieldMetadata(NamedTuple):
    """How a tree treats one of its fields.

    Attributes:
        node: whether the value is part of the leaves; otherwise it is static.
        kind: class that tells the purpose of the value; `NoneType` if there is none.
        opaque: whether a static value is hidden from comparison, or a predicate that
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
        """Return a copy with new values; `None` keeps the current value."""
        return FieldMetadata(
            self.node if node is None else node,
            self.kind if kind is None else kind,
            self.opaque if opaque is None else opaque,
        )


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class FieldInfo:
    """A leaf and the field in which it was found.

    Attributes:
        name: the field that owns the leaf; `None` outside of trees.
        value: the leaf.
        kind: the kind of the field.
        module: the tree that owns the field.
    """

    name: str | None
    value: Any
    kind: type
    module: object

    def __repr__(self) -> str:
        owner = None if self.module is None else type(self.module).__name__
        return (
            f"FieldInfo(name={self.name!r}, value={self.value!r}, "
            f"kind={self.kind.__name__}, module={owner})"
        )


# --- declarations --------------------------------------------------------------------


class TreeField(dataclasses.Field):
    """A declared field; reading it from an instance that never set it is an error."""

    __slots__ = ()

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self.name = name  # `dataclass` only does this for dataclasses

    def __get__(self, instance: object, owner: type) -> TreeField:
        if instance is None:
            return self  # `dataclass` looks for it on the class
        raise AttributeError(
            f"`{type(instance).__name__}.{self.name}` was declared and never set. "
            f"Set it in `__init__`, `self.{self.name} = ...`, or declare a default."
        )


class KindOptions(TypedDict, total=False):
    """The options of a field with a given kind, which are passed on to `field`."""

    init: bool
    repr: bool
    hash: bool | None
    compare: bool
    opaque: bool | OpaquePredicate


class FieldOptions(KindOptions, total=False):
    """The options of `field`, which `node` and `static` pass on."""

    kind: type
    default_factory: Any


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
    """Declare a field of a tree, in a plain class or in a dataclass.

    Args:
        default: value of every instance that does not set another one.
        node: whether the value is part of the leaves.
        kind: class that tells the purpose of the value.
        default_factory: returns the value for each instance, in place of `default`.
        init: see `dataclasses.field`, also for the next three arguments.
        repr: whether a dataclass shows it.
        hash: whether a dataclass hashes it.
        compare: whether a dataclass compares it.
        opaque: whether a static value is hidden from comparison, or a predicate
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
    # `dataclasses.field` cannot create a subclass, and the constructor of `Field`
    # differs between versions of Python.
    object.__setattr__(made, "__class__", TreeField)
    return made


def _shows_options(*without: str) -> Callable[[F], F]:
    """Show the options of `field` in the signature of a function that passes them on.

    Args:
        *without: names of parameters of `field` that the function sets itself.
    """

    def show(function: F) -> F:
        own = inspect.signature(function)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        known = {*without, *own.parameters}
        options = inspect.signature(field).parameters.values()
        passed_on = [option for option in options if option.name not in known]
        vars(function)["__signature__"] = own.replace(parameters=[*named, *passed_on])
        return function

    return show


@_shows_options("node")
def node(default: object = dataclasses.MISSING, **options: Unpack[FieldOptions]) -> Any:
    """Declare a field whose value is part of the leaves; see `field`."""
    return field(default, node=True, **options)


@_shows_options("node")
def static(
    default: object = dataclasses.MISSING, **options: Unpack[FieldOptions]
) -> Any:
    """Declare a field whose value is part of the structure; see `field`."""
    return field(default, node=False, **options)


class KindMixin:
    """Mixin for kinds of fields: adds functions that declare a field of the kind.

    Example:
        >>> import linsey.treex as tx
        >>> class Weight(tx.KindMixin): ...
        >>> class Line(tx.Tree):
        ...     slope: float = Weight.node(2.0)
        >>> tx.filter(Line(), Weight).slope
        2.0
    """

    @classmethod
    @_shows_options("kind")
    def field(
        cls,
        default: object = dataclasses.MISSING,
        *,
        node: bool,
        default_factory: Any = dataclasses.MISSING,
        **options: Unpack[KindOptions],
    ) -> Any:
        """Declare a field of this kind; see `field`."""
        return field(
            default, node=node, kind=cls, default_factory=default_factory, **options
        )

    @classmethod
    @_shows_options("kind", "node")
    def node(
        cls,
        default: object = dataclasses.MISSING,
        *,
        default_factory: Any = dataclasses.MISSING,
        **options: Unpack[KindOptions],
    ) -> Any:
        """Declare a field of this kind whose value is part of the leaves."""
        return cls.field(default, node=True, default_factory=default_factory, **options)

    @classmethod
    def static(
        cls,
        default: object = dataclasses.MISSING,
        default_factory: Any = dataclasses.MISSING,
        init: bool = True,
        repr: bool = True,
        hash: bool | None = None,
        compare: bool = True,
        opaque: bool | OpaquePredicate = False,
    ) -> Any:
        """Declare a field of this kind whose value is part of the structure."""
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


def declared_fields(cls: type) -> dict[str, dataclasses.Field]:
    """Return the fields that a class body declares, before `dataclass` removes them."""
    return {
        name: value
        for name, value in vars(cls).items()
        if isinstance(value, dataclasses.Field) and "node" in value.metadata
    }


# --- annotations ---------------------------------------------------------------------


def annotated_fields(cls: type, base: type) -> dict[str, bool]:
    """Return, for each annotated field of a class body, whether it mentions `base`."""
    found = {name: _resolve(cls, made) for name, made in _own_annotations(cls).items()}
    return {
        name: _mentions(annotation, base)
        for name, annotation in found.items()
        if not _is_pseudo_field(annotation)
    }


def _own_annotations(cls: type) -> dict[str, object]:
    """Return the annotations of a class body; those not resolved may be strings."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(
            cls, format=annotationlib.Format.FORWARDREF
        )
    return cls.__dict__.get("__annotations__", {})


def _resolve(cls: type, annotation: object) -> object:
    """Evaluate an annotation that is a string, if its names can be found."""
    if not isinstance(annotation, str):
        return annotation
    module = sys.modules.get(cls.__module__)
    names = dict(vars(module)) if module else {}
    names.setdefault(cls.__name__, cls)
    try:
        return eval(annotation, names, dict(vars(cls)))
    except Exception:  # names in a function's scope or a `TYPE_CHECKING` block
        return annotation


def _is_pseudo_field(annotation: object) -> bool:
    """Tell whether an annotation is only about the class or its constructor."""
    if isinstance(annotation, str):
        return annotation.startswith(("ClassVar", "typing.ClassVar", "tp.ClassVar"))
    return (
        annotation is ClassVar
        or annotation is dataclasses.KW_ONLY
        or typing.get_origin(annotation) is ClassVar
        or isinstance(annotation, dataclasses.InitVar)
    )


def _mentions(annotation: object, base: type) -> bool:
    """Tell whether a type, or a type in its arguments, is a subclass of `base`."""
    origin = typing.get_origin(annotation)
    if isinstance(annotation, type) and origin is None:
        return issubclass(annotation, base)
    if origin is None or origin is typing.Literal:
        return False
    if isinstance(origin, type) and issubclass(origin, base):
        return True
    return any(_mentions(part, base) for part in typing.get_args(annotation))
