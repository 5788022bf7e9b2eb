"""Operations on trees and other pytrees, as functions and as methods of mixins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, Self, TypeVar

import jax

from linsey.errors.base import ArgumentTypeError
from linsey.errors.treex import InPlaceError, TreeMismatchError
from linsey.treex.treeo import flatten
from linsey.treex.treeo.compact import Compact
from linsey.treex.treeo.fields import FieldInfo
from linsey.treex.treeo.flatten import FlattenMode, discover, take_state
from linsey.treex.treeo.sentinels import NOTHING, ArrayLike, Nothing
from linsey.treex.treeo.tree import BOOKKEEPING, Tree

__all__ = [
    "Apply",
    "Copy",
    "Extensions",
    "Filter",
    "Map",
    "Merge",
    "Repr",
    "ToDict",
    "ToString",
    "apply",
    "copy",
    "filter",
    "map",
    "merge",
    "to_dict",
    "to_string",
]

T = TypeVar("T")
_INDENT = "    "
Selector = type | Callable[[FieldInfo], object]
"""A kind of fields, or a function that selects leaves."""

# Attributes in which modules keep their internal state; filters never apply to them.
_NEVER_FILTERED = frozenset(
    (*BOOKKEEPING, "_compact_methods", "_training", "_initialized", "_frozen")
)


def copy(obj: T) -> T:
    """Copy trees and containers, including static ones; leaves are shared.

    Example:
        >>> import linsey.treex as tx
        >>> class Node(tx.Tree):
        ...     x: list = tx.node(default_factory=lambda: [1])
        >>> a = Node()
        >>> b = tx.copy(a)
        >>> b.x == a.x, b.x is a.x
        (True, False)
    """
    with flatten.flatten_mode("all_fields"), flatten.bare_leaves():
        return jax.tree.map(lambda leaf: leaf, obj)


def filter(
    obj: T,
    *filters: Selector,
    inplace: bool = False,
    flatten_mode: FlattenMode | str | None = None,
) -> T:
    """Keep the leaves that all filters accept and replace the others with `Nothing`.

    Args:
        obj: a tree, or a pytree with trees in it.
        *filters: classes, which accept the leaves of that kind, and functions of a
            `FieldInfo`.
        inplace: whether to change `obj` itself.
        flatten_mode: determines which fields count. Defaults to the current mode.

    Raises:
        ArgumentTypeError: a filter is neither a class nor a function.
        InPlaceError: `obj` has no attributes to change.

    Example:
        >>> import linsey.treex as tx
        >>> class Model(tx.Tree):
        ...     w: float = tx.Parameter.node(1.0)
        ...     n: int = tx.State.node(2)
        >>> vars(tx.filter(Model(), tx.Parameter))
        {'n': Nothing, 'w': 1.0}
    """
    if inplace and not hasattr(obj, "__dict__"):
        raise InPlaceError("filter", obj)
    accepts = [_predicate(given) for given in filters]

    def select(info: FieldInfo) -> object:
        if info.name in _NEVER_FILTERED or all(accept(info) for accept in accepts):
            return info.value
        return NOTHING

    return _returned(obj, _over_infos(select, obj, flatten_mode), inplace)


def merge(
    obj: T,
    other: object,
    *rest: object,
    inplace: bool = False,
    flatten_mode: FlattenMode | str | None = None,
    ignore_static: bool = False,
) -> T:
    """Merge pytrees: for each leaf, take the last given value that is not `Nothing`.

    Args:
        obj: a pytree.
        other: a pytree with the same structure.
        *rest: further pytrees with the same structure.
        inplace: whether to change `obj` itself.
        flatten_mode: determines which fields count. Defaults to the current mode, or to
            all fields.
        ignore_static: whether, in the mode `normal`, to combine leaves by their order
            and to keep the static values of `obj`.

    Raises:
        TreeMismatchError: the structures differ.
        InPlaceError: `obj` has no attributes to change.

    Example:
        >>> import linsey.treex as tx
        >>> tx.merge([1, tx.Nothing()], [tx.Nothing(), 2])
        [1, 2]
    """
    if inplace and not hasattr(obj, "__dict__"):
        raise InPlaceError("merge", obj)
    mode = flatten_mode or flatten.MODE.get() or FlattenMode.all_fields
    with flatten.flatten_mode(mode), flatten.bare_leaves():
        leaves, structure = jax.tree.flatten(obj, is_leaf=_is_empty)
        columns = [leaves]
        for tree in (other, *rest):
            if ignore_static and flatten.current_mode() is FlattenMode.normal:
                column = jax.tree.leaves(tree, is_leaf=_is_empty)
                if len(column) != len(leaves):
                    numbers = f"{len(leaves)} and {len(column)} leaves."
                    raise TreeMismatchError("merge", numbers)
            else:
                try:
                    column = structure.flatten_up_to(tree)
                except ValueError as error:
                    raise TreeMismatchError("merge", error) from None
            columns.append(column)
        merged = [
            next((v for v in reversed(row) if not isinstance(v, Nothing)), NOTHING)
            for row in zip(*columns, strict=True)
        ]
        result = jax.tree.unflatten(structure, merged)
    return _returned(obj, result, inplace)


def map(
    f: Callable[..., object],
    obj: T,
    *filters: Selector,
    inplace: bool = False,
    flatten_mode: FlattenMode | str | None = None,
    is_leaf: Callable[[Any], bool] | None = None,
    field_info: bool = False,
) -> T:
    """Apply a function to the leaves that all filters accept.

    Args:
        f: a function of a leaf. If it returns `Nothing`, the leaf is not changed.
        obj: a tree, or a pytree with trees in it.
        *filters: see `filter`; the other leaves are not changed.
        inplace: whether to change `obj` itself.
        flatten_mode: determines which fields count. Defaults to the current mode.
        is_leaf: tells which values are leaves, as in `jax.tree.map`.
        field_info: whether to pass `f` a `FieldInfo` for each leaf.

    Raises:
        InPlaceError: `obj` has no attributes to change.

    Example:
        >>> import linsey.treex as tx
        >>> class Model(tx.Tree):
        ...     w: float = tx.Parameter.node(1.0)
        ...     n: int = tx.State.node(2)
        >>> vars(tx.map(lambda x: -x, Model(), tx.Parameter))
        {'n': 2, 'w': -1.0}
    """
    if inplace and not hasattr(obj, "__dict__"):
        raise InPlaceError("map", obj)
    accepts = [_predicate(given) for given in filters]

    def change(info: FieldInfo) -> object:
        if info.name in _NEVER_FILTERED or not all(accept(info) for accept in accepts):
            return info.value
        result = f(info if field_info else info.value)
        return info.value if filters and isinstance(result, Nothing) else result

    if is_leaf is None or filters or field_info:
        result = _over_infos(change, obj, flatten_mode, is_leaf)
    else:  # here `is_leaf` gets plain values instead of `FieldInfo`s
        with flatten.flatten_mode(flatten_mode):
            result = jax.tree.map(f, obj, is_leaf=is_leaf)
    return _returned(obj, result, inplace)


def apply(f: Callable[..., object], obj: T, *rest: object, inplace: bool = False) -> T:
    """Call a function with every tree, children before parents, to change it.

    Args:
        f: a function `(tree, *trees of rest)`; its result is ignored.
        obj: a tree, or a pytree with trees in it.
        *rest: pytrees with the same structure; `f` gets copies.
        inplace: whether to change the trees of `obj` themselves and not those of a
            copy.

    Example:
        >>> import linsey.treex as tx
        >>> def rename(tree):
        ...     tree.name = "x"
        >>> tx.apply(rename, tx.Linear(3)).name
        'x'
    """
    with flatten.flatten_mode("normal"), flatten.bare_leaves():
        rest = tuple(copy(tree) for tree in rest)
        if not inplace:
            obj = copy(obj)
        _apply(f, obj, rest)
    return obj


def _apply(f: Callable[..., object], obj: object, rest: tuple[object, ...]) -> None:
    def is_below(value: object) -> bool:
        return isinstance(value, Tree) and value is not obj

    children, structure = jax.tree.flatten(obj, is_leaf=is_below)
    try:
        others = [structure.flatten_up_to(tree) for tree in rest]
    except ValueError as error:
        raise TreeMismatchError("apply", error) from None
    for child, *parts in zip(children, *others, strict=True):
        if isinstance(child, Tree):
            _apply(f, child, tuple(parts))
    if isinstance(obj, Tree):
        f(obj, *rest)
        discover(obj)


def _predicate(given: Selector) -> Callable[[FieldInfo], object]:
    if isinstance(given, type):
        return lambda info: issubclass(info.kind, given)
    if not callable(given):
        raise ArgumentTypeError(
            f"A filter is {given!r}.",
            "A filter is a class, which keeps the leaves of that kind, or a function "
            "of a `FieldInfo` that says whether to keep the leaf.",
            "For several kinds give their common base, or write "
            "`lambda field: issubclass(field.kind, (A, B))`.",
        )
    return given


def _over_infos(
    f: Callable[[FieldInfo], object],
    obj: T,
    mode: FlattenMode | str | None,
    is_leaf: Callable[[Any], bool] | None = None,
) -> T:
    """Map over leaves as `FieldInfo`s, which have names if a tree owns them."""

    def stops(value: object) -> bool:
        return isinstance(value, FieldInfo) or (is_leaf is not None and is_leaf(value))

    with flatten.flatten_mode(mode), flatten.add_field_info():
        leaves, structure = jax.tree.flatten(obj, is_leaf=stops)
    infos = [
        leaf if isinstance(leaf, FieldInfo) else FieldInfo(None, leaf, NoneType, None)
        for leaf in leaves
    ]
    with flatten.flatten_mode(mode), flatten.bare_leaves():
        return jax.tree.unflatten(structure, [f(info) for info in infos])


def _is_empty(value: object) -> bool:
    return value is None or isinstance(value, Nothing)


def _returned(obj: T, result: T, inplace: bool) -> T:
    if not inplace:
        return result
    take_state(obj, result)
    return obj


# --- as dictionaries and as text -----------------------------------------------------


def to_dict(
    obj: object,
    *,
    private_fields: bool = False,
    static_fields: bool = True,
    type_info: bool = False,
    field_info: bool = False,
) -> Any:
    """Return trees as dictionaries of their attributes, sequences as lists.

    Args:
        obj: a tree, or a pytree with trees in it.
        private_fields: whether to include attributes whose names begin with an
            underscore.
        static_fields: whether to include static attributes.
        type_info: whether to add the class to each dictionary, as `__type__`, and to
            each list.
        field_info: whether to wrap the leaves in `FieldInfo`.

    Example:
        >>> import linsey.treex as tx
        >>> class Line(tx.Tree):
        ...     slope: float = tx.node(2.0)
        ...     power: int = tx.static(3)
        >>> tx.to_dict(Line()), tx.to_dict(Line(), static_fields=False)
        ({'power': 3, 'slope': 2.0}, {'slope': 2.0})
    """
    named = flatten.add_field_info() if field_info else contextlib.nullcontext()
    with flatten.flatten_mode("all_fields"), named:
        leaves, structure = jax.tree.flatten(obj)
    with flatten.flatten_mode("all_fields"), flatten.bare_leaves():
        obj = jax.tree.unflatten(structure, leaves)
    return _as_dict(obj, private_fields, static_fields, type_info)


def _shown(tree: Tree, private: bool, static: bool) -> dict[str, object]:
    """Return the attributes of a tree that are included, by name."""
    nodes = discover(tree).layout.nodes
    return {
        name: value
        for name, value in sorted(vars(tree).items())
        if (private or not name.startswith("_")) and (static or name in nodes)
    }


def _as_dict(obj: object, private: bool, static: bool, types: bool) -> Any:
    if isinstance(obj, Tree | Mapping):
        entries = _shown(obj, private, static) if isinstance(obj, Tree) else obj
        result = {k: _as_dict(v, private, static, types) for k, v in entries.items()}
        return {**result, "__type__": type(obj)} if types else result
    if isinstance(obj, Sequence) and not isinstance(obj, str):
        items = [_as_dict(value, private, static, types) for value in obj]
        return [*items, type(obj)] if types else items
    return obj


def to_string(
    obj: object,
    private_fields: bool = False,
    static_fields: bool = True,
    color: bool = False,
) -> str:
    """Return trees as indented text, with shapes and dtypes, and kinds in a column.

    Args:
        obj: a tree, or a pytree with trees in it.
        private_fields: whether to include attributes whose names begin with an
            underscore.
        static_fields: whether to include static attributes.
        color: whether to dim the column of kinds, for terminals.

    Example:
        >>> import linsey.treex as tx
        >>> class Line(tx.Tree):
        ...     slope: float = tx.Parameter.node(2.0)
        ...     name: str = tx.static("rising")
        >>> print(tx.to_string(Line()))
        Line {
            name: "rising",
            slope: 2.0,        Parameter
        }
    """
    lines = list(_lines(obj, private_fields, static_fields))
    width = max(len(text) for text, _ in lines) + 4
    style = "\x1b[2m{}\x1b[0m" if color else "{}"  # `dim`, as rich writes it
    return "\n".join(
        text if kind is None else text.ljust(width) + style.format(kind)
        for text, kind in lines
    )


def _lines(obj: object, private: bool, static: bool) -> list[tuple[str, str | None]]:
    """Return the lines of an object, each with the name of its kind."""
    if isinstance(obj, Tree):
        layout = discover(obj).layout
        opening, closing = f"{type(obj).__name__} {{", "}"
        entries = [
            (f"{k}: ", v, layout.metadata[k].kind if k in layout.declared else NoneType)
            for k, v in _shown(obj, private, static).items()
        ]
    elif isinstance(obj, Mapping):
        opening, closing = "dict {", "}"
        entries = [(f"{key}: ", value, NoneType) for key, value in obj.items()]
    elif isinstance(obj, list | tuple):
        opening, closing = f"{type(obj).__name__} [", "]"
        entries = [("", value, NoneType) for value in obj]
    else:
        return [(_leaf_text(obj), None)]
    if not entries:
        return [(opening + closing, None)]
    lines: list[tuple[str, str | None]] = [(opening, None)]
    for label, value, kind in entries:
        inner = _lines(value, private, static)
        text, first_kind = inner[0]
        inner[0] = (label + text, first_kind if kind is NoneType else kind.__name__)
        last, last_kind = inner[-1]
        inner[-1] = (last + ",", last_kind)
        lines += [(_INDENT + text, kind_name) for text, kind_name in inner]
    return [*lines, (closing, None)]


def _leaf_text(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, ArrayLike) and not isinstance(value, type):
        cls = type(value)
        module = cls.__module__.split(".")[0]
        return f"{module}.{cls.__name__}({tuple(value.shape)}, {value.dtype})"
    return str(value)


# --- as methods ----------------------------------------------------------------------


class Copy:
    """Adds `copy`."""

    copy = copy


class ToString:
    """Adds `to_string`."""

    def to_string(
        self,
        *,
        private_fields: bool = False,
        static_fields: bool = True,
        color: bool = False,
    ) -> str:
        """See `linsey.treex.to_string`."""
        return to_string(self, private_fields, static_fields, color)


class ToDict:
    """Adds `to_dict`."""

    to_dict = to_dict


class Repr:
    """Adds a `repr` that shows a tree as text, without private attributes."""

    def __repr__(self) -> str:
        return to_string(self)


class Filter:
    """Adds `filter`."""

    filter = filter


class Merge:
    """Adds `merge`."""

    merge = merge


class Map:
    """Adds `map`."""

    def map(
        self,
        f: Callable[..., object],
        *filters: Selector,
        inplace: bool = False,
        flatten_mode: FlattenMode | str | None = None,
        is_leaf: Callable[[Any], bool] | None = None,
        field_info: bool = False,
    ) -> Self:
        """See `linsey.treex.map`."""
        return map(
            f,
            self,
            *filters,
            inplace=inplace,
            flatten_mode=flatten_mode,
            is_leaf=is_leaf,
            field_info=field_info,
        )


class Apply:
    """Adds `apply`."""

    def apply(
        self, f: Callable[..., object], *rest: object, inplace: bool = False
    ) -> Self:
        """See `linsey.treex.apply`."""
        return apply(f, self, *rest, inplace=inplace)


class Extensions(Copy, ToString, ToDict, Repr, Filter, Merge, Map, Apply, Compact):
    """All operations as methods."""
