"""Frozen dataclasses that are pytrees.

A field is either *data*, a child of the pytree, or *static*, part of its structure:
`field(pytree_node=False)`. JAX flattens these classes in C++, like dictionaries, with
the field names as path keys. Static fields are compared whenever two structures are, so
they must have a simple `==` and `hash`.

Type checkers know the method `replace` of subclasses of `PyTreeNode`. No checker allows
a decorator to add a method. For a class under `@dataclass` they therefore accept
`dataclasses.replace(point, x=1)`, which does the same, but not `point.replace(x=1)`,
unless the class is a subclass of `PyTreeNode`.

Example:
    >>> import jax
    >>> class Average(PyTreeNode):
    ...     total: float
    ...     count: int = 0
    ...     name: str = field(pytree_node=False, default="loss")
    >>> average = Average(total=3.0, count=2)
    >>> jax.tree.map(lambda x: x + 1, average)
    Average(total=4.0, count=3, name='loss')
    >>> average.replace(count=5)
    Average(total=3.0, count=5, name='loss')
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, Self, TypeVar, dataclass_transform, overload

import jax

from linsey import serialization
from linsey.errors import StateDictMismatchError, UnsupportedError

__all__ = ["PyTreeNode", "dataclass", "field"]

T = TypeVar("T")
R = TypeVar("R", bound="Replaceable")


class Replaceable(Protocol):
    """An object with fields that can be replaced in a copy."""

    def replace(self, **updates: Any) -> Self:
        """Return a copy with some fields given new values."""


def field(
    pytree_node: bool = True,
    *,
    metadata: Mapping[str, object] | None = None,
    **kwargs: Any,
) -> Any:
    """Declare a field of a `struct` dataclass.

    Args:
        pytree_node: whether the value is a child of the pytree. If `False`, it is
            part of the structure.
        metadata: metadata stored with the field; see `dataclasses.field`.
        **kwargs: passed to `dataclasses.field`.
    """
    return dataclasses.field(
        metadata={**(metadata or {}), "pytree_node": pytree_node}, **kwargs
    )


@overload
def dataclass(clz: type[T], **kwargs: Any) -> type[T]: ...
@overload
def dataclass(clz: None = None, **kwargs: Any) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field, dataclasses.field))
def dataclass(
    clz: type[T] | None = None, **kwargs: Any
) -> type[T] | Callable[[type[T]], type[T]]:
    """Turn a class into a frozen dataclass that is a pytree.

    Args:
        clz: the class. If `None`, a decorator with these options is returned.
        **kwargs: passed to `dataclasses.dataclass`; `frozen` defaults to `True`.

    Returns:
        The class, with a method `replace(**updates)` and registered with
        `linsey.serialization`; its state dict contains the data fields.

    Example:
        >>> @dataclass
        ... class Point:
        ...     x: float
        ...     y: float = 0.0
        >>> jax.tree.leaves(Point(1.0))
        [1.0, 0.0]
    """
    if clz is None:
        return partial(dataclass, **kwargs)
    if "_flax_dataclass" in vars(clz):
        return clz
    kwargs.setdefault("frozen", True)
    cls: Any = dataclasses.dataclass(**kwargs)(clz)
    fields: dict[bool, list[str]] = {True: [], False: []}
    for item in dataclasses.fields(cls):
        fields[bool(item.metadata.get("pytree_node", True))].append(item.name)
    cls.replace = _replace
    # The attribute by which programs recognise such a class.
    cls._flax_dataclass = True
    jax.tree_util.register_dataclass(
        cls, data_fields=fields[True], meta_fields=fields[False]
    )
    data = tuple(fields[True])
    serialization.register_serialization_state(
        cls, partial(fields_to_state, data), partial(fields_from_state, data)
    )
    return cls


def _replace(self: T, **updates: object) -> T:
    """Return a copy with some fields given new values."""
    return dataclasses.replace(self, **updates)  # pyrefly: ignore


_replace.__name__ = "replace"


def fields_to_state(names: tuple[str, ...], node: object) -> dict[str, object]:
    """Return the state dict of some attributes of an object."""
    return {name: serialization.to_state_dict(getattr(node, name)) for name in names}


def fields_from_state(names: tuple[str, ...], node: R, state: object) -> R:
    """Return an object with some attributes restored."""
    values = serialization.entries(node, state)
    kind = f"in state dict while restoring an instance of {type(node).__name__}"
    for name in names:
        if name not in values:
            raise StateDictMismatchError(
                f"Missing field {name} {kind}, at path {serialization.current_path()}",
                f"The state dict has {sorted(values)} there.",
            )
    unknown = ",".join(f'"{name}"' for name in values if name not in names)
    if unknown:
        raise StateDictMismatchError(
            f"Unknown field(s) {unknown} {kind} at path {serialization.current_path()}",
            f"The class has the data fields {list(names)}.",
        )
    fields = {name: getattr(node, name) for name in names}
    return node.replace(**serialization.restore_dict(fields, values))


@dataclass_transform(frozen_default=True, field_specifiers=(field, dataclasses.field))
class PyTreeNode:
    """Base class whose subclasses are `struct` dataclasses.

    Options of `dataclasses.dataclass` are passed in the class statement:
    `class State(PyTreeNode, kw_only=True)`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__()
        dataclass(cls, **kwargs)

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise UnsupportedError(
            "`PyTreeNode` has no fields of its own.",
            "A node is made of the fields that its class declares.",
            "Write a subclass with some: `class State(PyTreeNode): step: int`.",
        )

    def replace(self, **overrides: object) -> Self:
        """Return a copy with some fields given new values.

        Args:
            **overrides: new values by field name.

        Raises:
            TypeError: if there is no such field.
        """
        raise NotImplementedError
