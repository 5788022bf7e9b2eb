"""Operations on trees and other pytrees: filter, merge, map, apply, copy."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from types import NoneType
from typing import Any, TypeVar

import jax

from linsey.errors.treex import FilterTypeError, InPlaceError, TreeMismatchError
from linsey.treex.treeo import contexts
from linsey.treex.treeo.contexts import FlattenMode
from linsey.treex.treeo.fields import FieldInfo
from linsey.treex.treeo.sentinels import NOTHING, Nothing
from linsey.treex.treeo.tree import BOOKKEEPING, Tree, discover, take_state

T = TypeVar("T")
Filter = type | Callable[[FieldInfo], Any]

# Attributes by which modules keep book of themselves: no filter is about them.
_OWN_BOOKS = frozenset(
    (*BOOKKEEPING, "_compact_methods", "_training", "_initialized", "_frozen")
)


def copy(obj: T) -> T:
    """Builds trees and containers anew, static ones too; leaves are shared.

    Example:
        >>> import linsey.treex as tx
        >>> class Node(tx.Tree):
        ...     x: list = tx.node(default_factory=lambda: [1])
        >>> a = Node()
        >>> b = tx.copy(a)
        >>> b.x == a.x, b.x is a.x
        (True, False)
    """
    with contexts.flatten_mode("all_fields"), contexts.bare_leaves():
        return jax.tree.map(lambda leaf: leaf, obj)


def filter(
    obj: T,
    *filters: Filter,
    inplace: bool = False,
    flatten_mode: FlattenMode | str | None = None,
) -> T:
    """Keeps the leaves that all filters accept and puts `Nothing` for the others.

    Args:
        obj: a tree, or a pytree with trees in it.
        *filters: classes, which accept the leaves of that kind, and functions of a
            `FieldInfo`.
        inplace: change `obj` itself.
        flatten_mode: which fields count; none means the mode that is set.

    Raises:
        FilterTypeError: a filter is neither class nor function.
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

    def select(leaf: Any) -> Any:
        info = _info(leaf)
        if info.name in _OWN_BOOKS or all(accept(info) for accept in accepts):
            return info.value
        return NOTHING

    return _returned(obj, _over_infos(select, obj, flatten_mode), inplace)


def merge(
    obj: T,
    other: Any,
    *rest: Any,
    inplace: bool = False,
    flatten_mode: FlattenMode | str | None = None,
    ignore_static: bool = False,
) -> T:
    """Takes for each leaf the last of the given ones that is not `Nothing`.

    Args:
        obj: a pytree.
        other: one of the same structure.
        *rest: more of them.
        inplace: change `obj` itself.
        flatten_mode: which fields count; none means the mode that is set, all fields
            if none is.
        ignore_static: in the mode `normal`, combine leaves by their order and keep the
            static values of `obj`.

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
    mode = flatten_mode or contexts.MODE.get() or FlattenMode.all_fields
    with contexts.flatten_mode(mode), contexts.bare_leaves():
        leaves, structure = jax.tree.flatten(obj, is_leaf=_is_empty)
        columns = [leaves]
        for tree in (other, *rest):
            if ignore_static and contexts.current_mode() is FlattenMode.normal:
                column = jax.tree.leaves(tree, is_leaf=_is_empty)
                if len(column) != len(leaves):
                    raise TreeMismatchError(
                        "merge", f"{len(leaves)} and {len(column)} leaves."
                    )
            else:
                try:
                    column = structure.flatten_up_to(tree)
                except ValueError as error:
                    raise TreeMismatchError("merge", error) from None
            columns.append(column)
        merged = [_last(row) for row in zip(*columns, strict=True)]
        result = jax.tree.unflatten(structure, merged)
    return _returned(obj, result, inplace)


def map(
    f: Callable[..., Any],
    obj: T,
    *filters: Filter,
    inplace: bool = False,
    flatten_mode: FlattenMode | str | None = None,
    is_leaf: Callable[[Any], bool] | None = None,
    field_info: bool = False,
) -> T:
    """Applies a function to the leaves that all filters accept.

    Args:
        f: a function of a leaf; where it returns `Nothing` the leaf stays.
        obj: a tree, or a pytree with trees in it.
        *filters: as of `filter`; the other leaves stay.
        inplace: change `obj` itself.
        flatten_mode: which fields count; none means the mode that is set.
        is_leaf: says what is not to be taken apart, as in `jax.tree.map`.
        field_info: give `f` a `FieldInfo` for each leaf.

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

    def change(leaf: Any) -> Any:
        info = _info(leaf)
        if info.name in _OWN_BOOKS or not all(accept(info) for accept in accepts):
            return info.value
        result = f(info if field_info else info.value)
        return info.value if filters and isinstance(result, Nothing) else result

    if is_leaf is None:
        result = _over_infos(change, obj, flatten_mode)
    elif not filters and not field_info:
        with contexts.flatten_mode(flatten_mode):
            result = jax.tree.map(f, obj, is_leaf=is_leaf)
    else:
        result = _over_infos(change, obj, flatten_mode, is_leaf)
    return _returned(obj, result, inplace)


def apply(f: Callable[..., Any], obj: T, *rest: Any, inplace: bool = False) -> T:
    """Calls a function with every tree, children before parents, to change it.

    Args:
        f: a function `(tree, *trees of rest)`; what it returns is ignored.
        obj: a tree, or a pytree with trees in it.
        *rest: pytrees of the same structure; `f` gets copies.
        inplace: change the trees of `obj` themselves, not those of a copy.

    Example:
        >>> import linsey.treex as tx
        >>> def rename(tree):
        ...     tree.name = "x"
        >>> tx.apply(rename, tx.Linear(3)).name
        'x'
    """
    with contexts.flatten_mode("normal"), contexts.bare_leaves():
        rest = tuple(copy(tree) for tree in rest)
        if not inplace:
            obj = copy(obj)
        _apply(f, obj, rest)
    return obj


def _apply(f: Callable[..., Any], obj: Any, rest: tuple[Any, ...]) -> None:
    def is_below(value: Any) -> bool:
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


def _predicate(given: Any) -> Callable[[FieldInfo], Any]:
    if isinstance(given, type):
        return lambda info: issubclass(info.kind, given)
    if not callable(given):
        raise FilterTypeError(given)
    return given


def _info(leaf: Any) -> FieldInfo:
    if type(leaf) is FieldInfo:
        return leaf
    return FieldInfo(None, leaf, NoneType, None)


def _over_infos(
    f: Callable[[Any], Any],
    obj: Any,
    mode: FlattenMode | str | None,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Maps over leaves that are named where a tree owns them."""

    def stops(value: Any) -> bool:
        if type(value) is FieldInfo:
            return True
        return is_leaf is not None and is_leaf(value)

    with contexts.flatten_mode(mode), contexts.add_field_info():
        leaves, structure = jax.tree.flatten(obj, is_leaf=stops)
    changed = builtins.map(f, leaves)
    with contexts.flatten_mode(mode), contexts.bare_leaves():
        return jax.tree.unflatten(structure, changed)


def _is_empty(value: Any) -> bool:
    return value is None or isinstance(value, Nothing)


def _last(values: tuple[Any, ...]) -> Any:
    for value in reversed(values):
        if not isinstance(value, Nothing):
            return value
    return NOTHING


def _returned(obj: Any, result: Any, inplace: bool) -> Any:
    if not inplace:
        return result
    take_state(obj, result)
    return obj
