"""Changes deep inside immutable trees, written as if they were mutable.

A *cursor* stands at a place in a tree of dictionaries, lists, tuples, named tuples,
dataclasses and train states. Items and attributes of a cursor are cursors; setting them
notes a change. `build` makes a new tree with the changes; the old one is left as it is,
and parts without a change are shared.

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
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from linsey.errors import CursorFindError, TraverseTreeError

__all__ = ["AccessType", "Cursor", "Indexable", "ParentKey", "cursor", "is_named_tuple"]

A = TypeVar("A")


@runtime_checkable
class Indexable(Protocol):
    """What has items."""

    def __getitem__(self, key: Any) -> Any:
        """Returns an item."""
        ...


class AccessType(enum.Enum):
    """How a part of a tree is reached."""

    ITEM = enum.auto()
    ATTR = enum.auto()


class ParentKey(NamedTuple):
    """Where a cursor stands in the one above it."""

    parent: Cursor[Any]
    key: Any
    access_type: AccessType


def is_named_tuple(obj: Any) -> bool:
    """Tells whether a value is a named tuple."""
    return isinstance(obj, tuple) and hasattr(obj, "_fields")


def cursor(obj: A) -> Cursor[A]:
    """Makes a cursor that stands at the root of a tree.

    Args:
        obj: the tree.

    Example:
        >>> cursor((1, (2, 3)))[1][0].set(5)
        (1, (5, 3))
    """
    return Cursor(obj, None)


class Cursor(Generic[A]):
    """A place in a tree, with the changes noted below it; see the module."""

    _obj: A
    _parent_key: ParentKey | None
    _changes: dict[Any, Cursor[Any]]
    _children: dict[Any, Cursor[Any]]

    def __init__(self, obj: A, parent_key: ParentKey | None) -> None:
        vars(self).update(_obj=obj, _parent_key=parent_key, _changes={}, _children={})

    # -- access and change -----------------------------------------------------------

    @property
    def _path(self) -> str:
        """The keys from the root to here, joined with `/`."""
        if self._parent_key is None:
            return ""
        parent, key, _ = self._parent_key
        return f"{parent._path}/{key}" if parent._path else str(key)

    def _value(self) -> Any:
        """The value here, changes included."""
        return self.build()

    def __getitem__(self, key: Any) -> Cursor[A]:
        if key in self._changes:
            return self._changes[key]
        obj: Any = self._obj
        if not isinstance(obj, Indexable):
            raise TypeError(f"Cannot index into {obj}: a {type(obj).__name__}.")
        if isinstance(obj, Mapping) and key not in obj:
            raise KeyError(f"Key {key} not found in {obj}")
        if is_named_tuple(obj):
            return getattr(self, obj._fields[key])  # pyrefly: ignore
        return self._child(obj[key], key, AccessType.ITEM)

    def __getattr__(self, name: str) -> Cursor[A]:
        if name in self._changes:
            return self._changes[name]
        if not hasattr(self._obj, name):
            raise AttributeError(f"Attribute {name} not found in {self._obj}")
        return self._child(getattr(self._obj, name), name, AccessType.ATTR)

    def _child(self, obj: Any, key: Any, access: AccessType) -> Cursor[Any]:
        # One cursor for each place: changes noted through any name of it are kept.
        if key not in self._children:
            self._children[key] = Cursor(obj, ParentKey(self, key, access))
        return self._children[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if is_named_tuple(self._obj):
            self.__setattr__(self._obj._fields[key], value)  # type: ignore[attr-defined]
        else:
            self._note(key, value, AccessType.ITEM)

    def __setattr__(self, name: str, value: Any) -> None:
        self._note(name, value, AccessType.ATTR)

    def _note(self, key: Any, value: Any, access: AccessType) -> None:
        if isinstance(value, Cursor):
            value = value.build()
        self._changes[key] = Cursor(value, ParentKey(self, key, access))
        self._register()

    def _register(self) -> None:
        """Tells the cursors above that something has changed here."""
        if self._parent_key is not None:
            parent, key, _ = self._parent_key
            parent._changes[key] = self
            parent._register()

    def set(self, value: Any) -> Any:
        """Sets the value here, and returns the whole tree with all changes.

        Args:
            value: the new value.

        Example:
            >>> cursor({"a": {"b": 1}})["a"]["b"].set(2)
            {'a': {'b': 2}}
        """
        if self._parent_key is None:
            return value
        parent, key, access = self._parent_key
        parent._note(key, value, access)
        return parent._root().build()

    def _root(self) -> Cursor[Any]:
        return self if self._parent_key is None else self._parent_key.parent._root()

    def build(self) -> Any:
        """Returns a new tree, with the changes noted here and below."""
        changes = {key: child.build() for key, child in self._changes.items()}
        return _replaced(self._obj, changes) if changes else self._obj

    # -- search ----------------------------------------------------------------------

    def apply_update(self, update_fn: Callable[[str, Any], Any]) -> Cursor[A]:
        """Notes a change wherever a function returns another value.

        Args:
            update_fn: called with the path, such as "layers/0/size", and the value of
                each part, outer ones first. Parts of a value that it replaces are not
                visited.

        Returns:
            This cursor, with the changes noted.

        Example:
            >>> double = lambda path, x: 2 * x if path.endswith("size") else x
            >>> cursor({"a": {"size": 1}, "b": 5}).apply_update(double).build()
            {'a': {'size': 2}, 'b': 5}
        """
        for path, value in _traverse_tree((), self._obj, update_fn=update_fn):
            place = self
            for key, access in path[:-1]:
                place = _step(place, key, access)
            place._note(path[-1][0], value, path[-1][1])
        return self

    def find(self, cond_fn: Callable[[str, Any], bool]) -> Cursor[A]:
        """Returns the cursor of the only part that fulfils a condition.

        Args:
            cond_fn: called with the path and the value of each part.

        Raises:
            CursorFindError: no part fulfils it, or several do.

        Example:
            >>> c = cursor({"a": {"size": 1}})
            >>> c.find(lambda path, x: path.endswith("size")).set(3)
            {'a': {'size': 3}}
        """
        found = self.find_all(cond_fn)
        first = next(found, None)
        if first is None:
            raise CursorFindError()
        second = next(found, None)
        if second is not None:
            raise CursorFindError(first, second)
        return first

    def find_all(
        self, cond_fn: Callable[[str, Any], bool]
    ) -> Generator[Cursor[A], None, None]:
        """Yields the cursors of all parts that fulfil a condition.

        Args:
            cond_fn: called with the path and the value of each part, outer ones first.
                Parts of a value that fulfils it are not visited.

        Example:
            >>> found = cursor([1, 2, 3]).find_all(lambda path, x: x > 1)
            >>> [c.build() for c in found]
            [2, 3]
        """
        for path, _ in _traverse_tree((), self._obj, cond_fn=cond_fn):
            place = self
            for key, access in path:
                place = _step(place, key, access)
            yield place

    # -- what a cursor can stand for -------------------------------------------------

    def __iter__(self) -> Iterator[Cursor[A]]:
        value = self._value()
        if not isinstance(value, tuple | list):
            raise NotImplementedError(
                "__iter__ method only implemented for tuples and lists, not type "
                f"{type(value)}"
            )
        return (self[index] for index in range(len(value)))

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
        return str(self._value())

    def __len__(self) -> int:
        return len(self._value())

    def __bool__(self) -> bool:
        return bool(self._value())

    def __contains__(self, item: Any) -> bool:
        return item in self._value()

    def __round__(self, *args: Any) -> Any:
        return round(self._value(), *args)


def _unary(function: Callable[[Any], Any]) -> Any:
    return lambda self: function(self._value())


def _binary(function: Callable[[Any, Any], Any], swap: bool = False) -> Any:
    def call(self: Cursor[Any], other: Any) -> Any:
        other = other._value() if isinstance(other, Cursor) else other
        a, b = self._value(), other
        return function(b, a) if swap else function(a, b)

    return call


for _name in ("neg", "pos", "abs", "invert"):
    setattr(Cursor, f"__{_name}__", _unary(getattr(operator, f"__{_name}__")))
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(Cursor, f"__{_name}__", _binary(getattr(operator, f"__{_name}__")))
for _name in (
    *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow"),
    *("lshift", "rshift", "and", "or", "xor", "divmod"),
):
    _function = divmod if _name == "divmod" else getattr(operator, f"__{_name}__")
    setattr(Cursor, f"__{_name}__", _binary(_function))
    setattr(Cursor, f"__r{_name}__", _binary(_function, swap=True))
Cursor.__hash__ = None  # type: ignore[assignment]  # equal values, mutable places


def _step(place: Cursor[Any], key: Any, access: AccessType) -> Cursor[Any]:
    return place[key] if access is AccessType.ITEM else getattr(place, key)


def _parts(obj: Any) -> list[tuple[Any, AccessType, Any]]:
    """The parts of a value: key, how it is reached, and value."""
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
    path: tuple[tuple[Any, AccessType], ...],
    obj: Any,
    *,
    update_fn: Callable[[str, Any], Any] | None = None,
    cond_fn: Callable[[str, Any], bool] | None = None,
) -> Generator[tuple[tuple[tuple[Any, AccessType], ...], Any], None, None]:
    """Yields the places that are updated, with the new value, or that are found."""
    if (update_fn is None) == (cond_fn is None):
        raise TraverseTreeError(update_fn, cond_fn)
    for key, access, value in _parts(obj):
        here = (*path, (key, access))
        text = "/".join(str(key) for key, _ in here)
        new = value if update_fn is None else update_fn(text, value)
        if new is not value or (cond_fn is not None and cond_fn(text, value)):
            yield here, new
        else:
            yield from _traverse_tree(here, value, update_fn=update_fn, cond_fn=cond_fn)


def _replaced(obj: Any, changes: dict[Any, Any]) -> Any:
    """A copy of a value with other parts."""
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
    return dataclasses.replace(obj, **changes)
