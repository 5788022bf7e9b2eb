"""Paths of layers and variables as strings, and patterns that select them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax

from linsey.core.filters import DenyList
from linsey.errors import OptionError

Where = str | Sequence[str] | DenyList
"""A selection of layers and variables.

A path, such as `"encoder/layer_0"`, selects itself and everything below. It may be a
pattern, such as `"*/norm"`, in which `*` stands for any text, including `/`. A sequence
selects what any of its elements selects, and `DenyList(...)` everything else.
"""


def text_of(path: Iterable[Any]) -> str:
    """Join the names, or the pytree keys, of a path without its collection.

    Example:
        >>> tree = {"params": {"head": {"kernel": 1.0}}}
        >>> [text_of(path[1:]) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        ['head/kernel']
    """
    entries = tuple(path)
    if all(isinstance(entry, str) for entry in entries):
        return "/".join(entries)
    return jax.tree_util.keystr(entries, simple=True, separator="/")


def is_within(path: str, outer: str) -> bool:
    """Tell whether a path equals another one or is below it."""
    return path == outer or path.startswith(f"{outer}/")


def matches(where: Where, path: str) -> bool:
    """Tell whether a path is selected.

    Example:
        >>> matches("block_*/norm", "block_1/norm/scale")
        True
        >>> matches(DenyList(["head"]), "head/kernel")
        False
    """
    if isinstance(where, DenyList):
        return not matches(where.deny, path)  # type: ignore[arg-type]
    names = path.split("/")
    above = ["/".join(names[:count]) for count in range(1, len(names) + 1)]
    patterns = [where] if isinstance(where, str) else where
    return any(fnmatchcase(text, one) for one in patterns for text in above)


def check_where(where: Where, paths: Iterable[str], *, patterns: bool = True) -> None:
    """Check that each element of a selection selects something.

    Args:
        where: the selection.
        paths: all existing paths.
        patterns: whether patterns, too, must select something.

    Raises:
        OptionError: an element of `where` selects nothing.
    """
    paths = list(paths)
    while isinstance(where, DenyList):
        where = where.deny  # type: ignore[assignment]
    for one in [where] if isinstance(where, str) else where:
        if "*" in one and not patterns:
            continue
        if not any(matches(one, path) for path in paths):
            raise not_found(one, paths)


def not_found(path: str, paths: Iterable[str]) -> OptionError:
    """Return the error for a path that does not exist. It names the nearest paths."""
    above: dict[str, None] = {}
    for one in paths:
        names = one.split("/")
        above |= {"/".join(names[: i + 1]): None for i in range(len(names))}
    there = [text for text in above if text]
    near = difflib.get_close_matches(path, there, 3, 0.3) or there[:3]
    return OptionError(
        f'Nothing is at "{path}".',
        "A path is made of the names that lead from the model to a layer that it "
        "calls, as in its variables, without the collection.",
        "The nearest: " + ", ".join(f'"{text}"' for text in near) + ".",
    )
