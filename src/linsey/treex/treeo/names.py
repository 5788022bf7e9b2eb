"""Names for objects that were not given one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def snake_case(name: str) -> str:
    """Return a class name in snake case, without underscores between single capitals.

    Example:
        >>> [snake_case(n) for n in ("BatchNorm", "MLP", "MyMLP", "Conv2D", "L1L2")]
        ['batch_norm', 'mlp', 'my_mlp', 'conv2_d', 'l1_l2']
    """
    parts = re.split(r"(?<!^)(?=[A-Z])", name)
    result = parts[0]
    for before, part in zip(parts, parts[1:], strict=False):
        result += part if len(before) == 1 else "_" + part
    return result.lower()


def unique_name(name: str, taken: Callable[[str], bool]) -> str:
    """Return the name or, if it is taken, count up from it to the first free name.

    Example:
        >>> unique_name("linear", {"linear", "linear2"}.__contains__)
        'linear3'
        >>> unique_name("dense_09", {"dense_09"}.__contains__)
        'dense_10'
    """
    if not taken(name):
        return name
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    number = int(digits) if digits else 2
    while taken(found := f"{stem}{number:0{len(digits)}d}"):
        number += 1
    return found


def default_name(obj: object) -> str:
    """Return the `name` of an object, its `__name__`, or its class in snake case."""
    return (
        getattr(obj, "name", None)
        or getattr(obj, "__name__", None)
        or snake_case(type(obj).__name__)
    )


def named_leaves(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    """Return the objects in nested containers, with names that include their keys."""
    if isinstance(value, list | tuple):
        return [pair for item in value for pair in named_leaves(item, path)]
    if isinstance(value, Mapping):
        return [
            pair
            for key, item in value.items()
            for pair in named_leaves(item, (*path, str(key)))
        ]
    name = getattr(value, "name", None) or snake_case(
        getattr(value, "__name__", None) or type(value).__name__
    )
    return [("/".join((*path, name)), value)]


def unique_names(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return a dictionary of the pairs, with numbers added to repeated names."""
    result: dict[str, T] = {}
    for name, value in pairs:
        result[unique_name(name, result.__contains__)] = value
    return result
