"""Nested dictionaries, and the paths that name their leaves.

A path joins keys with `/`. A `/` in a key is written as `~1`, and a `~` as `~0`, as in
JSON pointers (RFC 6901), so that no two leaves have the same path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from linsey.errors import ArgumentTypeError
from linsey.specs import escape

Nested = Mapping[str, object]
MAX_DEPTH = 100
"""The largest number of keys in a path."""


def flatten(tree: Nested) -> dict[str, Any]:
    """Name each leaf of nested dictionaries by its path.

    Args:
        tree: dictionaries with strings as keys; everything else is a leaf.

    Raises:
        ArgumentTypeError: a key is not a string, or dictionaries are nested too deeply.

    Example:
        >>> flatten({"params": {"Dense_0": {"bias": 1}, "a/b": 2}, "batch_stats": {}})
        {'params/Dense_0/bias': 1, 'params/a~1b': 2}
    """
    return {path: leaf for path, leaf in leaves(tree) if not isinstance(leaf, Mapping)}


def leaves(tree: Nested, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Iterate over paths and leaves; an empty dictionary is also a leaf."""
    for key, value in tree.items():
        if not isinstance(key, str):
            raise ArgumentTypeError(
                f"The key {key!r} below `{'/'.join(above)}` is not text.",
                "Arrays are stored by paths, which are made of text.",
                f"Use {str(key)!r}.",
            )
        keys = (*above, escape(key))
        if len(keys) > MAX_DEPTH:
            raise ArgumentTypeError(
                f"`{'/'.join(keys[:3])}/...` has more than {MAX_DEPTH} keys.",
                "So deep a tree is most likely one that contains itself.",
                "Store a tree that is less deep.",
            )
        if isinstance(value, Mapping) and value:
            yield from leaves(value, keys)
        else:
            yield "/".join(keys), value


def nest(flat: Mapping[str, Any], empty: Iterable[str] = ()) -> dict[str, Any]:
    """Make nested dictionaries from leaves by path: the inverse of `flatten`.

    Args:
        flat: leaves by path.
        empty: paths of empty dictionaries.

    Raises:
        ValueError: two paths exclude each other, or a path has too many keys. The
            message is the (second) path.

    Example:
        >>> nest({"params/bias": 1, "params/a~1b": 2}, empty=["batch_stats"])
        {'params': {'bias': 1, 'a/b': 2}, 'batch_stats': {}}
    """
    tree: dict[str, Any] = {}
    for path, leaf in [*flat.items(), *((path, {}) for path in empty)]:
        keys = keys_of(path)
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(path)
        if keys[-1] in node or len(keys) > MAX_DEPTH:
            raise ValueError(path)
        node[keys[-1]] = leaf
    return tree


def keys_of(path: str) -> list[str]:
    """Split a path into its keys."""
    return [key.replace("~1", "/").replace("~0", "~") for key in path.split("/")]
