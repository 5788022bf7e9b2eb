"""Paths of layers and variables: read, matched, and looked up in nested mappings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax

from linsey.batch_stats.objects import entry_name
from linsey.core.filters import DenyList
from linsey.core.frozen_dict import FrozenDict, freeze
from linsey.errors import OptionError

Path = tuple[str, ...]
Rename = Callable[[Path], Path | None]
Where = bool | str | Sequence[str] | DenyList | Callable[[str], bool]
"""What chooses layers and variables, by their paths.

A path, `"encoder/layer_0"`, stands for itself and all that is below; its parts may be
patterns, `"encoder/*/mlp"`. Several are any of them, `DenyList(...)` is all but these,
`True` all, and a function is asked with the path as a text.
"""


def as_path(path: str | Sequence[str]) -> Path:
    """Return the names of a path, which is given as text or as names.

    Raises:
        OptionError: it has no name.
    """
    parts = path.split("/") if isinstance(path, str) else path
    names = tuple(part for part in parts if part)
    if not names:
        raise OptionError(
            "The path of a layer is empty.",
            "That is the model itself.",
            'Give the names that lead to the layer, such as `"encoder/Dense_0"`.',
        )
    return names


def as_text(path: Path) -> str:
    """Join the names of a path."""
    return "/".join(path)


def is_within(path: Path, outer: Path) -> bool:
    """Return whether a path is another one, or below it."""
    return path[: len(outer)] == outer


def matches(where: Where, path: Path) -> bool:
    """Return whether a path is among those that are chosen.

    Example:
        >>> matches("block_*/norm", ("block_1", "norm", "scale"))
        True
        >>> matches(DenyList("head"), ("head", "kernel"))
        False
    """
    if isinstance(where, bool):
        return where
    if isinstance(where, DenyList):
        return not matches(where.deny, path)  # type: ignore[arg-type]
    if isinstance(where, str):
        pattern = as_path(where)
        pairs = zip(path, pattern, strict=False)
        return len(path) >= len(pattern) and all(fnmatchcase(*pair) for pair in pairs)
    if callable(where):
        return bool(where(as_text(path)))
    return any(matches(one, path) for one in where)


def check_where(where: Where, paths: Iterable[Path]) -> None:
    """Refuse texts that are the path of nothing.

    Raises:
        OptionError: there is such a text.
    """
    paths = list(paths)
    if isinstance(where, DenyList):
        check_where(where.deny, paths)  # type: ignore[arg-type]
    elif isinstance(where, str):
        if not any(matches(where, path) for path in paths):
            raise not_found(where, paths)
    elif not isinstance(where, bool) and not callable(where):
        for one in where:
            check_where(one, paths)


def not_found(path: str, paths: Iterable[Path]) -> OptionError:
    """Return the error for a path that leads nowhere; it names the nearest ones."""
    texts = list(dict.fromkeys(as_text(outer) for p in paths for outer in _above(p)))
    near = difflib.get_close_matches(path, texts, 3, 0.3) or texts[:3]
    return OptionError(
        f'Nothing is at "{path}".',
        "A path has the names from the model to a layer that it calls, as they are in "
        "its variables, joined by `/`.",
        "The nearest: " + ", ".join(f'"{text}"' for text in near) + ".",
    )


def _above(path: Path) -> list[Path]:
    return [path[:length] for length in range(1, len(path) + 1)]


def leaves(tree: object) -> dict[Path, Any]:
    """Return the arrays of nested mappings by path; those in boxes too."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(map(entry_name, path)): leaf for path, leaf in found}


def put(tree: Mapping[str, Any], path: Path, value: object) -> dict[str, Any]:
    """Return nested mappings with another value at a path, `None` to take it out.

    What is beside the path is not copied; mappings that become empty go too.

    Example:
        >>> put({"a": {"b": 1, "c": 2}}, ("a", "b"), None)
        {'a': {'c': 2}}
    """
    name, *rest = path
    inner = tree.get(name)
    if rest:
        below = inner if isinstance(inner, Mapping) else {}
        value = put(below, tuple(rest), value) or None
    out = {key: item for key, item in tree.items() if key != name or value is not None}
    return out if value is None else {**out, name: value}


def moved(variables: Mapping[str, Any], owner: Path, rename: Rename) -> dict[str, Any]:
    """Return variables whose names directly below a layer are others.

    Args:
        variables: by collection.
        owner: the path of the layer.
        rename: gives the new path for an old one, `None` to take it out.
    """
    out = dict(variables)
    for collection, tree in variables.items():
        node: Any = tree
        for name in owner:
            node = node.get(name) if isinstance(node, Mapping) else None
        if not isinstance(node, Mapping):
            continue
        named = {name: rename((*owner, name)) for name in node}
        new = {path[-1]: node[name] for name, path in named.items() if path is not None}
        if {*new} != {*node}:
            out = put(out, (collection, *owner), new or None)
    return out


def like(variables: Mapping[str, Any], given: object) -> Any:
    """Return variables in the kind of mapping that was given."""
    return freeze(dict(variables)) if isinstance(given, FrozenDict) else variables
