"""Changes deep inside immutable trees, written as if the trees were mutable.

A *cursor* points to a value in a tree of dictionaries, lists, tuples, named tuples,
dataclasses and train states. Items and attributes of a cursor are cursors; setting them
records a change. `build` makes a new tree with the changes. The old tree is not
modified, and both trees share the parts without changes.

Example:
    >>> tree = {"layers": [{"size": 3}, {"size": 4}], "name": "net"}
    >>> c = cursor(tree)
    >>> c["layers"][0]["size"] *= 10
    >>> c["name"] = "large"
    >>> c.build()
    {'layers': [{'size': 30}, {'size': 4}], 'name': 'large'}
    >>> tree["name"]
    'net'
"""

from __future__ import annotations

import dataclasses
import enum
import operator
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from linsey import errors

__all__ = ["AccessType", "Cursor", "Indexable", "ParentKey", "cursor", "is_named_tuple"]

A = TypeVar("A")
"""The type of the whole tree, which a cursor at any depth can return."""


@runtime_checkable
class Indexable(Protocol):
    """A value with items."""

    def __getitem__(self, key: Any) -> Any:
        """Return an item."""
        ...


class AccessType(enum.Enum):
    """The kind of access to a part of a tree."""

    ITEM = enum.auto()
    ATTR = enum.auto()


Step = tuple[Hashable, AccessType]
"""A key on a path, and the kind of access."""


class ParentKey(NamedTuple, Generic[A]):
    """The parent of a cursor, and the key that leads from the parent to it."""

    parent: Cursor[A]
    key: Any
    access_type: AccessType


def is_named_tuple(obj: object) -> bool:
    """Return whether a value is a named tuple."""
    return isinstance(obj, tuple) and hasattr(obj, "_fields")


def cursor(obj: A) -> Cursor[A]:
    """Make a cursor that points to the root of a tree.

    Args:
        obj: the tree.

    Example:
        >>> cursor((1, (2, 3)))[1][0].set(5)
        (1, (5, 3))
    """
    return Cursor(obj, None)


# Not every type checker binds a callable with a precise signature to `self`.
def _unary(function: Callable[[Any], object]) -> Callable[..., Any]:
    return lambda self: function(self.build())


def _binary(function: Callable[[Any, Any], object]) -> Callable[..., Any]:
    return lambda self, other: function(self.build(), _value_of(other))


def _both_ways(
    function: Callable[[Any, Any], object],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return an operator with the cursor on its left, and one with it on its right."""
    swapped = lambda self, other: function(_value_of(other), self.build())  # noqa: E731
    return _binary(function), swapped


def _value_of(other: object) -> object:
    return other.build() if isinstance(other, Cursor) else other


class Cursor(Generic[A]):
    """A value in a tree, with the changes recorded below it; see `linsey.cursor`."""

    _obj: Any
    _parent_key: ParentKey[A] | None
    _changes: dict[Hashable, Cursor[A]]
    _children: dict[Hashable, Cursor[A]]

    def __init__(self, obj: object, parent_key: ParentKey[A] | None) -> None:
        vars(self).update(_obj=obj, _parent_key=parent_key, _changes={}, _children={})

    # -- access and change -----------------------------------------------------------

    @property
    def _path(self) -> str:
        """The path from the root to this value, in Python's notation."""
        if self._parent_key is None:
            return ""
        parent, key, access = self._parent_key
        step = f"[{key!r}]" if access is AccessType.ITEM else f".{key}"
        return parent._path + step

    def __getitem__(self, key: Hashable) -> Cursor[A]:
        if key in self._changes:
            return self._changes[key]
        obj = self._obj
        if not isinstance(self._obj, Indexable):
            raise errors.ArgumentTypeError(
                f"Cannot index into {obj}, of type {type(obj).__name__}.",
                "Only dictionaries, lists and tuples have items.",
                "Write `cursor.name` for an attribute, `cursor.set(value)` to replace.",
            )
        if isinstance(obj, Mapping) and key not in obj:
            raise KeyError(f"Key {key} not found in {obj}")
        if is_named_tuple(obj):
            return getattr(self, obj._fields[key])
        return self._child(obj[key], key, AccessType.ITEM)

    def __getattr__(self, name: str) -> Cursor[A]:
        if name in self._changes:
            return self._changes[name]
        if not hasattr(self._obj, name):
            raise AttributeError(f"Attribute {name} not found in {self._obj}")
        return self._child(getattr(self._obj, name), name, AccessType.ATTR)

    def _child(self, obj: object, key: Hashable, access: AccessType) -> Cursor[A]:
        # One cursor for each key: changes recorded through any reference are kept.
        if key not in self._children:
            self._children[key] = Cursor(obj, ParentKey(self, key, access))
        return self._children[key]

    def __setitem__(self, key: Hashable, value: object) -> None:
        if is_named_tuple(self._obj):
            self.__setattr__(self._obj._fields[key], value)
        else:
            self._record(key, value, AccessType.ITEM)

    def __setattr__(self, name: str, value: object) -> None:
        self._record(name, value, AccessType.ATTR)

    def _record(self, key: Hashable, value: object, access: AccessType) -> None:
        if isinstance(value, Cursor):
            value = value.build()
        self._changes[key] = Cursor(value, ParentKey(self, key, access))
        self._register()

    def _register(self) -> None:
        """Tell the cursors above that this part of the tree has changed."""
        if self._parent_key is not None:
            parent, key, _ = self._parent_key
            parent._changes[key] = self
            parent._register()

    def set(self, value: object) -> Any:
        """Replace this value, and return the whole tree with all changes.

        Args:
            value: the new value.

        Example:
            >>> cursor({"a": {"b": 1}})["a"]["b"].set(2)
            {'a': {'b': 2}}
        """
        if self._parent_key is None:
            return value
        parent, key, access = self._parent_key
        parent._record(key, value, access)
        return parent._root().build()

    def _root(self) -> Cursor[A]:
        return self if self._parent_key is None else self._parent_key.parent._root()

    def build(self) -> Any:
        """Return a new tree, with the changes recorded here and below."""
        changes = {key: child.build() for key, child in self._changes.items()}
        return _replaced(self._obj, changes) if changes else self._obj

    # -- search ----------------------------------------------------------------------

    def apply_update(self, update_fn: Callable[[str, Any], object]) -> Cursor[A]:
        """Record a change wherever a function returns a different value.

        Args:
            update_fn: called with the path, such as "layers/0/size", and the value of
                each part, outer parts first. Parts of a replaced value are not visited.

        Returns:
            This cursor, with the changes recorded.

        Example:
            >>> double = lambda path, x: 2 * x if path.endswith("size") else x
            >>> cursor({"a": {"size": 1}, "b": 5}).apply_update(double).build()
            {'a': {'size': 2}, 'b': 5}
        """
        for path, value in _traverse_tree((), self._obj, update_fn=update_fn):
            *above, (key, access) = path
            self._descendant(above)._record(key, value, access)
        return self

    def find(self, cond_fn: Callable[[str, Any], bool]) -> Cursor[A]:
        """Return the cursor of the only part that fulfils a condition.

        Args:
            cond_fn: called with the path and the value of each part.

        Raises:
            CursorFindError: if no part fulfils it, or several do.

        Example:
            >>> c = cursor({"a": {"size": 1}})
            >>> c.find(lambda path, x: path.endswith("size")).set(3)
            {'a': {'size': 3}}
        """
        found = self.find_all(cond_fn)
        first = next(found, None)
        if first is None:
            raise errors.CursorFindError()
        second = next(found, None)
        if second is not None:
            raise errors.CursorFindError(first, second)
        return first

    def find_all(
        self, cond_fn: Callable[[str, Any], bool]
    ) -> Generator[Cursor[A], None, None]:
        """Yield the cursors of all parts that fulfil a condition.

        Args:
            cond_fn: called with the path and the value of each part, outer ones first.
                Parts of a value that fulfils it are not visited.

        Example:
            >>> found = cursor([1, 2, 3]).find_all(lambda path, x: x > 1)
            >>> [c.build() for c in found]
            [2, 3]
        """
        for path, _ in _traverse_tree((), self._obj, cond_fn=cond_fn):
            yield self._descendant(path)

    def _descendant(self, path: Iterable[Step]) -> Cursor[A]:
        """Return the cursor at the end of a path that starts here."""
        found = self
        for key, access in path:
            is_item = access is AccessType.ITEM
            found = found[key] if is_item else getattr(found, str(key))
        return found

    # -- operators: those of the value ------------------------------------------------

    def __iter__(self) -> Iterator[Cursor[A]]:
        return (self[index] for index in range(self._length("__iter__")))

    def __reversed__(self) -> Iterator[Cursor[A]]:
        return (self[index] for index in reversed(range(self._length("__reversed__"))))

    def _length(self, method: str) -> int:
        value = self.build()
        if not isinstance(value, tuple | list):
            raise errors.UnsupportedError(
                f"{method} method only implemented for tuples and lists, not type "
                f"{type(value)}",
                "Iterating over a dictionary yields keys, which are not parts of it.",
                "Iterate over its items: `for key in cursor.build(): cursor[key]`.",
            )
        return len(value)

    def __repr__(self) -> str:
        obj = repr(self._obj).replace("\n", "\n  ")
        changes = ""
        for key, child in self._changes.items():
            head = f"    {key!r}: "
            text = repr(child).replace("\n", "\n" + " " * len(head))
            changes += f"\n{head}{text},"
        changes = f"{{{changes[:-1]}\n  }}" if changes else "{}"
        return f"Cursor(\n  _obj={obj},\n  _changes={changes}\n)"

    def __str__(self) -> str:
        return str(self.build())

    def __round__(self, *args: int) -> Any:
        return round(self.build(), *args)

    def __eq__(self, other: object) -> bool:
        return self.build() == _value_of(other)

    def __ne__(self, other: object) -> bool:
        return self.build() != _value_of(other)

    __hash__ = None  # type: ignore[assignment]  # equal values, mutable contents

    __len__ = _unary(len)
    __bool__ = _unary(bool)
    __contains__ = _binary(operator.contains)
    __neg__ = _unary(operator.neg)
    __pos__ = _unary(operator.pos)
    __abs__ = _unary(operator.abs)
    __invert__ = _unary(operator.invert)
    __lt__ = _binary(operator.lt)
    __le__ = _binary(operator.le)
    __gt__ = _binary(operator.gt)
    __ge__ = _binary(operator.ge)
    __add__, __radd__ = _both_ways(operator.add)
    __sub__, __rsub__ = _both_ways(operator.sub)
    __mul__, __rmul__ = _both_ways(operator.mul)
    __matmul__, __rmatmul__ = _both_ways(operator.matmul)
    __truediv__, __rtruediv__ = _both_ways(operator.truediv)
    __floordiv__, __rfloordiv__ = _both_ways(operator.floordiv)
    __mod__, __rmod__ = _both_ways(operator.mod)
    __pow__, __rpow__ = _both_ways(operator.pow)
    __lshift__, __rlshift__ = _both_ways(operator.lshift)
    __rshift__, __rrshift__ = _both_ways(operator.rshift)
    __and__, __rand__ = _both_ways(operator.and_)
    __or__, __ror__ = _both_ways(operator.or_)
    __xor__, __rxor__ = _both_ways(operator.xor)
    __divmod__, __rdivmod__ = _both_ways(divmod)


def _parts(obj: Any) -> list[tuple[Hashable, AccessType, object]]:
    """Return the parts of a value: key, kind of access, and value."""
    if isinstance(obj, Mapping):
        return [(key, AccessType.ITEM, value) for key, value in obj.items()]
    if is_named_tuple(obj):
        return [(name, AccessType.ATTR, getattr(obj, name)) for name in obj._fields]
    if isinstance(obj, list | tuple):
        return [(index, AccessType.ITEM, value) for index, value in enumerate(obj)]
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        names = [field.name for field in dataclasses.fields(obj) if field.init]
        return [(name, AccessType.ATTR, getattr(obj, name)) for name in names]
    return []


def _traverse_tree(
    path: tuple[Step, ...],
    obj: object,
    *,
    update_fn: Callable[[str, Any], object] | None = None,
    cond_fn: Callable[[str, Any], bool] | None = None,
) -> Generator[tuple[tuple[Step, ...], object], None, None]:
    """Yield paths that are updated, with the new values, or paths that are found."""
    if (update_fn is None) == (cond_fn is None):
        raise errors.TraverseTreeError(update_fn, cond_fn)
    for key, access, value in _parts(obj):
        here = (*path, (key, access))
        text = "/".join(str(key) for key, _ in here)
        new = value if update_fn is None else update_fn(text, value)
        if new is not value or (cond_fn is not None and cond_fn(text, value)):
            yield here, new
        else:
            yield from _traverse_tree(here, value, update_fn=update_fn, cond_fn=cond_fn)


def _replaced(obj: Any, changes: Mapping[Any, object]) -> object:
    """Return a copy of a value with some parts replaced."""
    if isinstance(obj, dict) and type(obj) is dict:
        return {**obj, **changes}
    if isinstance(obj, Mapping):
        return type(obj)({**obj, **changes})  # type: ignore[call-arg]
    if is_named_tuple(obj):
        return obj._replace(**changes)
    if isinstance(obj, list | tuple):
        values = list(obj)
        for index, value in changes.items():
            values[index] = value
        return type(obj)(values)
    if dataclasses.is_dataclass(obj):
        return dataclasses.replace(obj, **changes)  # pyrefly: ignore
    error = errors.ArgumentTypeError(
        f"Cannot replace the parts {list(changes)} of a value of type "
        f"{type(obj).__name__}.",
        "Only dictionaries, lists, tuples and dataclasses are rebuilt from parts.",
        "Set the whole value: `cursor.set(value)`, for arrays `array.at[i].set(...)`.",
    )
    errors.report_misuse(error)
    return obj
