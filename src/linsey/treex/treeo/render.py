"""Trees as dictionaries and as text."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import jax

from linsey.treex.treeo.contexts import add_field_info, bare_leaves, flatten_mode
from linsey.treex.treeo.flatten import discover
from linsey.treex.treeo.sentinels import ArrayLike
from linsey.treex.treeo.tree import Tree

_INDENT = "    "


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
        private_fields: include attributes whose name begins with an underscore.
        static_fields: include those that are static.
        type_info: add the class to each dictionary, as `__type__`, and to each list.
        field_info: wrap the leaves in `FieldInfo`.

    Example:
        >>> import linsey.treex as tx
        >>> class Line(tx.Tree):
        ...     slope: float = tx.node(2.0)
        ...     power: int = tx.static(3)
        >>> tx.to_dict(Line()), tx.to_dict(Line(), static_fields=False)
        ({'power': 3, 'slope': 2.0}, {'slope': 2.0})
    """
    named = add_field_info() if field_info else contextlib.nullcontext()
    with flatten_mode("all_fields"), named:
        leaves, structure = jax.tree.flatten(obj)
    with flatten_mode("all_fields"), bare_leaves():
        obj = jax.tree.unflatten(structure, leaves)
    return _as_dict(obj, private_fields, static_fields, type_info)


def _as_dict(obj: object, private: bool, static: bool, types: bool) -> Any:
    result: dict[Any, object]
    if isinstance(obj, Tree):
        nodes = set(discover(obj).layout.nodes)
        result = {
            name: _as_dict(value, private, static, types)
            for name, value in sorted(vars(obj).items())
            if (private or not name.startswith("_")) and (static or name in nodes)
        }
    elif isinstance(obj, Mapping):
        result = {k: _as_dict(v, private, static, types) for k, v in obj.items()}
    elif isinstance(obj, Sequence) and not isinstance(obj, str):
        items = [_as_dict(value, private, static, types) for value in obj]
        return [*items, type(obj)] if types else items
    else:
        return obj
    return {**result, "__type__": type(obj)} if types else result


def to_string(
    obj: object,
    private_fields: bool = False,
    static_fields: bool = True,
    color: bool = False,
) -> str:
    """Return trees as indented text, arrays by shape and dtype, kinds in a column.

    Args:
        obj: a tree, or a pytree with trees in it.
        private_fields: include attributes whose name begins with an underscore.
        static_fields: include those that are static.
        color: dim the column of kinds, for terminals.

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
        entries = [
            (
                f"{name}: ",
                value,
                layout.metadata[name].kind if name in layout.declared else NoneType,
            )
            for name, value in sorted(vars(obj).items())
            if (private or not name.startswith("_"))
            and (static or name in layout.nodes)
        ]
        return _block(f"{type(obj).__name__} {{", "}", entries, private, static)
    if isinstance(obj, Mapping):
        entries = [(f"{key}: ", value, NoneType) for key, value in obj.items()]
        return _block("dict {", "}", entries, private, static)
    if isinstance(obj, list | tuple):
        entries = [("", value, NoneType) for value in obj]
        return _block(f"{type(obj).__name__} [", "]", entries, private, static)
    return [(_leaf_text(obj), None)]


def _block(
    opening: str,
    closing: str,
    entries: list[tuple[str, object, type]],
    private: bool,
    static: bool,
) -> list[tuple[str, str | None]]:
    if not entries:
        return [(opening + closing, None)]
    lines: list[tuple[str, str | None]] = [(opening, None)]
    for label, value, kind in entries:
        inner = _lines(value, private, static)
        text, first_kind = inner[0]
        name = first_kind if kind is NoneType else kind.__name__
        inner[0] = (label + text, name)
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
